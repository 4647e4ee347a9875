"""What the API does: inputs → parameters → flags and files.

Nothing that is passed in is changed, and nothing is kept between calls. Every function takes `library`, the loaded
templates and rules; callers that call often load it once (`tandem.rendering.library.load_library`). Mistakes raise
`tandem.api.problems.Refused`, with the dotted path of each.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tandem.api.deployment import ModelDeployment, RoleName
from tandem.api.problems import refuse
from tandem.generator.artifacts import artifacts_of, write_artifacts
from tandem.generator.engine import Flags, flags_of, render_roles, table_of, with_table
from tandem.generator.inputs import Inputs, check_inputs, merge
from tandem.generator.params import Params, from_params, to_params
from tandem.generator.reading import read_data, read_file
from tandem.generator.schemas import Scalar, Schema, load_schema, parse_schema
from tandem.generator.shelltext import ShellTemplate, compile_scripts
from tandem.generator.translate import blueprint_of, relocated, to_deployment
from tandem.manifests.sources import model_access
from tandem.rendering.library import Library, load_library
from tandem.rendering.mapping import Unsupported

_NO_INPUT = "No generator inputs provided via --config or --set"
# What backends call multi-token prediction.
_MTP_WORDS = ("mtp", "nextn")
# A model for parameters that are asked about alone.
_ANY_MODEL = {"model_path": "any/model", "served_model_name": "model"}


def collect_generator_params(  # noqa: PLR0917 - the order that callers know
    service: Mapping[str, Any],
    k8s: Mapping[str, Any] | None = None,
    prefill_params: Mapping[str, Any] | None = None,
    decode_params: Mapping[str, Any] | None = None,
    agg_params: Mapping[str, Any] | None = None,
    prefill_workers: int = 1,
    decode_workers: int = 1,
    agg_workers: int = 1,
    sla: Mapping[str, Any] | None = None,
    dyn_config: Mapping[str, Any] | None = None,
    backend: str | None = None,
    *,
    library: Library | None = None,
) -> Params:
    """Parameters from their parts. Roles that are None or empty are left out, unless the mode needs them."""
    roles = {"prefill": prefill_params, "decode": decode_params, "agg": agg_params}
    return generate_config_from_input_dict(
        {
            "ServiceConfig": service,
            "K8sConfig": k8s,
            "DynConfig": dyn_config,
            "Workers": {role: found for role, found in roles.items() if found},
            "WorkerConfig": {
                "prefill_workers": prefill_workers,
                "decode_workers": decode_workers,
                "agg_workers": agg_workers,
            },
            "SlaConfig": sla,
        },
        backend=backend,
        library=library,
    )


def generate_config_from_input_dict(
    input_dict: Mapping[str, Any],
    schema_path: str | Path | None = None,
    backend: str | None = None,
    *,
    library: Library | None = None,
) -> Params:
    """Parameters from an input of groups (ServiceConfig, K8sConfig, DynConfig, Workers.<role>…), defaults filled in.

    Without `backend` the keys that only some backends know are left out.
    """
    library = library or load_library()
    schema = _schema(schema_path)
    inputs = check_inputs(input_dict, schema=schema, backend=backend, facts=_facts(library, backend, None))
    to_deployment(inputs, backend=backend or "torch")
    return to_params(inputs)


def generate_config_from_yaml(
    yaml_path: str | Path,
    schema_path: str | Path | None = None,
    backend: str | None = None,
    *,
    library: Library | None = None,
) -> Params:
    """`generate_config_from_input_dict` of a file."""
    return generate_config_from_input_dict(load_input(yaml_path), schema_path, backend, library=library)


def prepare_generator_params(
    config_path: str | Path | None,
    overrides: Mapping[str, Any] | None = None,
    schema_path: str | Path | None = None,
    backend: str | None = None,
    *,
    library: Library | None = None,
) -> Params:
    """Parameters of a file with `overrides` merged over it before anything is checked."""
    raw = merge({} if config_path is None else load_input(config_path), overrides or {})
    if not raw:
        raise refuse("input", None, _NO_INPUT, "Give a file or single keys.")
    return generate_config_from_input_dict(raw, schema_path, backend, library=library)


def backend_config(
    params: Mapping[str, Any],
    backend: str,
    *,
    role: RoleName | None = None,
    backend_version: str | None = None,
    library: Library | None = None,
) -> Flags:
    """`{parameter: {flag: value}}` of one role, rules and defaults included; see `generate_backend_config`."""
    library = library or load_library()
    if "params" not in params:
        name = role or "agg"
        mode = "agg" if name == "agg" else "disagg"
        pools = {"agg": params} if name == "agg" else {"prefill": {}, "decode": {}, name: params}
        params = {"service": _ANY_MODEL, "k8s": {"mode": mode}, "params": pools}
        role = name
    configs = backend_configs(params, backend, backend_version=backend_version, library=library)
    if role is None and len(configs) > 1:
        raise refuse("role", None, "there are several roles", f"Name one of {', '.join(configs)}.")
    if role is not None and role not in configs:
        raise refuse("role", role, "the parameters have no such role", f"Use {' or '.join(configs)}.")
    return configs[role] if role is not None else next(iter(configs.values()))


def backend_configs(
    params: Mapping[str, Any], backend: str, *, backend_version: str | None = None, library: Library | None = None
) -> dict[RoleName, Flags]:
    """`backend_config` of every role of the mode."""
    library = library or load_library()
    inputs = _inputs(params, backend, backend_version, library)
    deployment = _deployment(inputs, backend, backend_version, library)
    with relocated():
        facts = model_access(deployment).facts
        rendering = render_roles(deployment, facts=facts, blueprint=blueprint_of(inputs), library=library)
    return {name: flags_of(role) for name, role in zip(inputs.roles, rendering.roles, strict=True)}


def generate_backend_artifacts(
    params: Mapping[str, Any],
    backend: str,
    templates_dir: str | Path | None = None,
    output_dir: str | Path | None = None,
    backend_version: str | None = None,
    *,
    mapping_path: str | Path | None = None,
    library: Library | None = None,
) -> dict[str, str]:
    """Name and text of every artifact; with `output_dir` they are written there too.

    `mapping_path` is a mapping file in place of the shipped one, or one with further scripts as templates. Files below
    `templates_dir` (in a directory named as the backend, or in it) replace templates of the same name.
    """
    library = library or load_library()
    if templates_dir is not None:
        library = with_templates_of(library, Path(templates_dir), backend)
    library, templates = (library, {}) if mapping_path is None else with_mapping_of(library, mapping_path, backend)
    inputs = _inputs(params, backend, backend_version, library)
    deployment = _deployment(inputs, backend, backend_version, library)
    artifacts = artifacts_of(inputs, deployment=deployment, library=library, templates=templates)
    if output_dir is not None:
        write_artifacts(artifacts, Path(output_dir))
    return artifacts


def load_input(path: str | Path) -> dict[str, Any]:
    """The input in a YAML file; raises `Refused`."""
    found = read_data(read_file(Path(path), "Config file not found"), str(path))
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise refuse(str(path), found, "an input is a mapping of groups", "Begin with ServiceConfig:.")
    return found


def with_templates_of(library: Library, directory: Path, backend: str) -> Library:
    """The library with a directory's templates of a backend in place of shipped ones; raises `Refused`."""
    if not directory.is_dir():
        raise refuse("templates_dir", str(directory), "there is no such directory", "Give a directory of templates.")
    with relocated():
        library.table(backend, None)
    nested = directory / backend
    folder = nested if nested.is_dir() else directory
    texts = {path.name: read_file(path, "cannot be read") for path in sorted(folder.glob("*.j2")) if path.is_file()}
    return library.with_templates(backend=backend, texts=texts, label=str(folder), path="templates_dir")


def _schema(path: str | Path | None) -> Schema:
    if path is None:
        return load_schema()
    document = read_data(read_file(Path(path), "Schema file not found"), str(path))
    return parse_schema(document, str(path))


def _facts(library: Library, backend: str | None, version: str | None) -> dict[str, Scalar | None]:
    if backend is None:
        return {"backend_image": None}
    with relocated():
        return {"backend_image": library.table(backend, version).image}


def _inputs(params: Mapping[str, Any], backend: str, version: str | None, library: Library) -> Inputs:
    if not isinstance(params, Mapping):
        raise refuse("params", params, "parameters are a mapping of groups", "See collect_generator_params.")
    return from_params(params, schema=load_schema(), backend=backend, facts=_facts(library, backend, version))


def _deployment(inputs: Inputs, backend: str, version: str | None, library: Library) -> ModelDeployment:
    # Parameters that were made without a version hold the image of the preferred one.
    images = {library.table(backend, known).image for known in (version, None)}
    image = inputs.text("K8sConfig.k8s_image")
    entry = library.table(backend, version).entries["speculative_decoding_type"]
    known = (word for word in _MTP_WORDS if not isinstance(entry.target(word, inputs.mode), Unsupported))
    return to_deployment(
        inputs,
        backend=backend,
        version=version,
        default_image=image if image in images else None,
        mtp=next(known, _MTP_WORDS[0]),
    )


def with_mapping_of(
    library: Library, mapping_path: str | Path, backend: str
) -> tuple[Library, dict[str, ShellTemplate]]:
    """The library with a mapping file of the user, and the scripts in that file; raises `Refused`.

    The file is a table that becomes the only one of `backend`, or holds templates: `{vllm: {run.sh.j2: TEXT}}`.
    """
    location = str(mapping_path)
    with relocated():
        library.table(backend, None)
    document = read_data(read_file(Path(mapping_path), "Mapping file not found"), location)
    if isinstance(document, dict) and isinstance(document.get(backend), dict):
        return library, compile_scripts(document[backend], location)
    table = table_of(document, location)
    if table.backend != backend:
        raise refuse(location, table.backend, f"the file is not for backend {backend}", "Name another file.")
    return with_table(library, table), {}
