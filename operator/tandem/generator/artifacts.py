"""Every file that an input becomes, and how files are written."""

from __future__ import annotations

import stat
from collections.abc import Mapping
from pathlib import Path

import yaml

from tandem.api.deployment import ModelDeployment
from tandem.api.parameters import SHORT_NAMES
from tandem.api.problems import refuse
from tandem.generator.engine import render_roles, shell_word
from tandem.generator.inline import inlined
from tandem.generator.inputs import Inputs
from tandem.generator.scripts import Scripts, file_name, gpus_per_node
from tandem.generator.shelltext import ShellTemplate
from tandem.generator.translate import blueprint_of, relocated
from tandem.manifests import Cluster, build
from tandem.manifests.placement import LEADER_WORKER_SET
from tandem.manifests.sources import model_access
from tandem.manifests.yaml_out import to_yaml
from tandem.rendering.library import Library
from tandem.rendering.pipeline import Rendering
from tandem.rendering.values import RoleRendering

DEPLOY_FILE = "k8s_deploy.yaml"
DEPLOYMENT_FILE = "model_deployment.yaml"
_ARGUMENTS = "cli_args_"


def artifacts_of(
    inputs: Inputs,
    *,
    deployment: ModelDeployment,
    library: Library,
    templates: Mapping[str, ShellTemplate] | None = None,
) -> dict[str, str]:
    """Name and text of every artifact, sorted by name; raises `Refused` with names of the input.

    `cli_args_<role>` is what follows the program's name on a worker's command line. `templates` are further scripts,
    by name.
    """
    with relocated():
        facts = model_access(deployment).facts
        blueprint = blueprint_of(inputs)
        rendering = render_roles(deployment, facts=facts, blueprint=blueprint, library=library)
        scripts = Scripts(inputs=inputs, deployment=deployment, facts=facts, library=library, rendering=rendering)
        scripts_by_name = scripts.texts()
        cluster = Cluster(library=library, gpus_per_node=gpus_per_node(inputs), apis=frozenset({LEADER_WORKER_SET}))
        built = build(deployment, blueprint=blueprint, cluster=cluster)
        if _is_inline(inputs):
            built = inlined(built)
        found = {
            DEPLOY_FILE: to_yaml(built),
            DEPLOYMENT_FILE: deployment_text(deployment),
            **_arguments(rendering),
            **_files(rendering),
            **scripts_by_name,
        }
        names = _names(inputs, rendering)
        found |= {name: template.render(names) for name, template in (templates or {}).items()}
    return dict(sorted(found.items()))


def _is_inline(inputs: Inputs) -> bool:
    key = "K8sConfig.k8s_engine_mode"
    mode = inputs.get(key)
    if mode not in (None, "inline", "configmap"):
        raise refuse(key, mode, "this mode does not exist", "Use inline or configmap.")
    return mode == "inline"


def _names(inputs: Inputs, rendering: Rendering) -> dict[str, object]:
    """What the scripts of a mapping file see: `model`, and `params.<role>` by unified and by short name."""
    params: dict[str, dict[str, object]] = {}
    for role in rendering.roles:
        values: dict[str, object] = {value.name: value.value for value in role.parameters}
        short = {name: values[full] for name, full in SHORT_NAMES.items() if full in values}
        params[role.role] = values | short
    model = {name: inputs.text(f"ServiceConfig.{name}") for name in ("model_path", "served_model_name", "model_name")}
    return {
        "model": model,
        "params": params,
        "mode": inputs.mode,
        "backend": rendering.table.backend,
        "version": rendering.table.version,
    }


def is_written(name: str) -> bool:
    """Whether an artifact becomes a file; arguments are a part of others."""
    return not name.startswith(_ARGUMENTS)


def write_artifacts(artifacts: Mapping[str, str], directory: Path) -> tuple[Path, ...]:
    """Writes the files among `artifacts`; scripts may be run by everyone. Raises `Refused` when it cannot."""
    written = []
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in artifacts.items():
            if not is_written(name):
                continue
            path = directory / name
            path.write_text(text, encoding="utf-8", newline="")
            if name.endswith(".sh"):
                path.chmod(path.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
            written.append(path)
    except OSError as error:
        reason = f"cannot be written: {error.strerror}"
        raise refuse("output_dir", str(directory), reason, "Give a directory that can be written to.") from None
    return tuple(written)


def deployment_text(deployment: ModelDeployment) -> str:
    """The ModelDeployment that the operator would be given for the same pods."""
    meta = deployment.metadata
    document = {
        "apiVersion": deployment.api_version,
        "kind": deployment.kind,
        "metadata": {"name": meta.name, "namespace": meta.namespace},
        # What is null in an overlay removes a field, so it stays.
        "spec": deployment.spec.model_dump(mode="json", by_alias=True, exclude_unset=True),
    }
    return yaml.dump(document, Dumper=yaml.CSafeDumper, sort_keys=False, allow_unicode=True, width=2**31 - 1)


def _arguments(rendering: Rendering) -> dict[str, str]:
    program = len(rendering.table.command)
    return {f"{_ARGUMENTS}{role.role}": _line(role, program) for role in rendering.roles}


def _line(role: RoleRendering, program: int) -> str:
    return " ".join(shell_word(item) for item in role.command[program:])


def _files(rendering: Rendering) -> dict[str, str]:
    return {file_name(role.role, name): text for role in rendering.roles for name, text in role.files.items()}
