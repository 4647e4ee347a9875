"""The first API, kept: `generate_backend_config.from_runtime(cfg=…, backend=…, version=…, overrides=…)`.

A configuration of measured worker sizes becomes an input of the API of today, so both give the same files.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tandem.api.deployment import RoleName
from tandem.api.parameters import SHORT_NAMES
from tandem.api.problems import Problem, Refused, refuse
from tandem.generator.artifacts import write_artifacts
from tandem.generator.calls import (
    backend_config,
    generate_backend_artifacts,
    generate_config_from_input_dict,
    load_input,
)
from tandem.generator.compat_types import (
    ArtifactBundle,
    DynamoConfig,
    GeneratorContext,
    ModeConfig,
    ModeKey,
    RuntimeView,
    checked,
)
from tandem.generator.engine import Flags
from tandem.generator.inputs import merge
from tandem.generator.schemas import load_schema
from tandem.generator.translate import has_mtp, relocated
from tandem.rendering.library import Library, load_library
from tandem.rendering.mapping import PARAMETER_NAMES

# Room beside prompt and answer, in tokens.
_SLACK_TOKENS = 1000
_ROLES: Mapping[ModeKey, RoleName] = {"agg": "agg", "disagg_prefill": "prefill", "disagg_decode": "decode"}
_SIZES = ("workers", "bs", "tp", "pp", "dp", "moe_tp", "moe_ep", "memory")
_QUANT = ("gemm_quant_mode", "moe_quant_mode", "kvcache_quant_mode", "fmha_quant_mode", "comm_quant_mode")
_KNOWN = (
    *("model_name", "model_path", "served_model_name", "system_name", "decode_system_name", "serving_mode"),
    *("total_gpus", "isl", "osl", "is_moe", "nextn", "nextn_accept_rates", "exp_config"),
    *(f"{mode}_worker_config" for mode in _ROLES),
)


class _GenerateAPI:
    """`generate_backend_config`: a function of today's API that also holds the calls of the first."""

    def __call__(
        self,
        params: Mapping[str, Any],
        backend: str,
        *,
        role: RoleName | None = None,
        backend_version: str | None = None,
        library: Library | None = None,
    ) -> Flags:
        """`{parameter: {flag: value}}` of one role, rules and defaults included.

        `params` are the parameters of one role (`{"tensor_parallel_size": 4}`, for role agg unless `role` says
        otherwise), or those of `collect_generator_params`, of which `role` names one.
        """
        return backend_config(params, backend, role=role, backend_version=backend_version, library=library)

    @staticmethod
    def from_runtime(
        cfg: Mapping[str, Any],
        backend: str,
        version: str | None = None,
        overrides: DynamoConfig | None = None,
        save_dir: str | Path | None = None,
        *,
        library: Library | None = None,
    ) -> ArtifactBundle:
        """Artifacts of a configuration (`serving_mode`, `agg_worker_config`, …), written to `save_dir` if given.

        Without the configuration of a kind of workers, `overrides` say its sizes. A version that is not known is told
        in `warnings`, and the preferred one is used.
        """
        library = library or load_library()
        context, warnings = _context(cfg, backend, version, overrides or DynamoConfig(), library)
        raw = _input(cfg, context)
        params = generate_config_from_input_dict(raw, backend=backend, library=library)
        artifacts = generate_backend_artifacts(params, backend, backend_version=context.version, library=library)
        mode = "agg" if "agg" in context.modes else "disagg"
        if save_dir is not None:
            write_artifacts(artifacts, Path(save_dir) / mode)
        return ArtifactBundle({mode: artifacts}, context, warnings)

    @staticmethod
    def from_file(
        yaml_path: str | Path,
        backend: str,
        version: str | None = None,
        overrides: DynamoConfig | None = None,
        save_dir: str | Path | None = None,
        *,
        library: Library | None = None,
    ) -> ArtifactBundle:
        """`from_runtime` of a YAML file."""
        cfg = load_input(yaml_path)
        return _GenerateAPI.from_runtime(cfg, backend, version, overrides, save_dir, library=library)


generate_backend_config = _GenerateAPI()


def runtime_of(cfg: Mapping[str, Any]) -> tuple[RuntimeView, tuple[str, ...]]:
    """What a configuration says about lengths and model, and what of it cannot be had; raises `Refused`."""
    formats = [
        str(found["kvcache_quant_mode"])
        for mode in _ROLES
        if isinstance(found := cfg.get(f"{mode}_worker_config"), Mapping) and found.get("kvcache_quant_mode")
    ]
    names = ("isl", "osl", "is_moe", "nextn", "nextn_accept_rates")
    given = {name: cfg[name] for name in names if cfg.get(name) is not None}
    data = {"isl": None, "osl": None, "is_moe": False, "kv_cache_mode": next(iter(formats), None), **given}
    runtime = checked(RuntimeView, data, "")
    if runtime.nextn and not has_mtp(str(cfg.get("model_name", ""))):
        text = f"nextn: {cfg.get('model_name')} is not of the DeepSeek family, so it predicts one token at a time"
        return checked(RuntimeView, {**data, "nextn": 0, "nextn_accept_rates": None}, ""), (text,)
    return runtime, ()


def _context(
    cfg: Mapping[str, Any], backend: str, version: str | None, overrides: DynamoConfig, library: Library
) -> tuple[GeneratorContext, tuple[str, ...]]:
    if not isinstance(cfg, Mapping):
        raise refuse("cfg", cfg, "a configuration is a mapping", "Give model_name and serving_mode.")
    unknown = [
        Problem(str(key), "", "there is no such key", _near(str(key), _KNOWN)) for key in cfg if key not in _KNOWN
    ]
    if unknown:
        raise Refused(unknown)
    serving = cfg.get("serving_mode")
    if serving not in ("agg", "disagg"):
        raise refuse("serving_mode", serving, "this mode does not exist", "Use agg or disagg.")
    runtime, warnings = runtime_of(cfg)
    kinds: tuple[ModeKey, ...] = ("agg",) if serving == "agg" else ("disagg_prefill", "disagg_decode")
    modes = {kind: _mode_config(cfg, kind, overrides) for kind in kinds}
    with relocated():
        preferred = library.table(backend, None).version
    known = version if version in library.tables[backend] else preferred
    if known != version and version is not None:
        warnings += (f"version: {version} of {backend} is not known; {known} is used",)
    gpus = sum(mode.gpus for mode in modes.values())
    context = {
        "model_name": cfg.get("model_name"),
        "backend": backend,
        "version": known,
        "runtime": runtime,
        "overrides": overrides,
        "modes": modes,
        "total_gpus": cfg.get("total_gpus"),
        "num_gpus_per_replica": gpus,
        "exp_config": cfg.get("exp_config"),
    }
    made = checked(GeneratorContext, context, "")
    if made.total_gpus is None or not gpus:
        return made, warnings
    if made.total_gpus < gpus:
        raise refuse("total_gpus", made.total_gpus, f"one replica needs {gpus} GPUs", "Give more, or fewer workers.")
    return checked(GeneratorContext, {**context, "num_replicas": made.total_gpus // gpus}, ""), warnings


def _mode_config(cfg: Mapping[str, Any], kind: ModeKey, overrides: DynamoConfig) -> ModeConfig:
    """The sizes of a kind of workers; overrides win over the configuration."""
    path = f"{kind}_worker_config"
    raw = cfg.get(path)
    if raw is not None and not isinstance(raw, Mapping):
        raise refuse(path, raw, "must be a mapping", "Give bs, tp and pp.")
    data = dict(raw or {"pp": 1, "workers": 1})
    unknown = [key for key in data if key not in (*_SIZES, *_QUANT)]
    if unknown:
        raise refuse(f"{path}.{unknown[0]}", data[unknown[0]], "there is no such key", _near(unknown[0], _SIZES))
    if kind == "agg":
        data.setdefault("workers", 1)
    common, roles = overrides.split_by_worker_type()
    said = {**common, **roles[_ROLES[kind]]}
    data |= {name: said[name] for name in _SIZES if name in said}
    sizes = {name: value for name, value in data.items() if name in _SIZES}
    extra = {name: value for name, value in data.items() if name in _QUANT}
    return checked(ModeConfig, {**sizes, "extra": extra}, path)


def _input(cfg: Mapping[str, Any], context: GeneratorContext) -> dict[str, Any]:
    """The input that says the same as the context."""
    name = context.model_name
    runtime = context.runtime
    raw: dict[str, Any] = {
        "ServiceConfig": {
            "model_path": cfg.get("model_path", name),
            "served_model_name": cfg.get("served_model_name", name),
            "model_name": name,
        },
        "DynConfig": {"mode": "agg" if "agg" in context.modes else "disagg"},
        "Workers": {_ROLES[kind]: _parameters(mode, runtime) for kind, mode in context.modes.items()},
        "WorkerConfig": {f"{_ROLES[kind]}_workers": mode.workers for kind, mode in context.modes.items()},
        "SlaConfig": {"isl": runtime.isl, "osl": runtime.osl},
        "ModelConfig": {"is_moe": runtime.is_moe, "nextn": runtime.nextn},
    }
    common, roles = context.overrides.split_by_worker_type()
    for key, value in common.items():
        raw = merge(raw, _override(key, value, tuple(raw["Workers"])))
    for role, found in roles.items():
        for key, value in found.items():
            if role not in raw["Workers"]:
                mode = raw["DynConfig"]["mode"]
                raise refuse(f"overrides.{role}_{key}", value, f"mode {mode} has no role {role}", "Remove it.")
            raw = merge(raw, _override(key, value, (role,), prefix=f"{role}_"))
    return raw


def _parameters(mode: ModeConfig, runtime: RuntimeView) -> dict[str, Any]:
    sizes = {"tp": mode.tp, "bs": mode.bs}
    sizes |= {name: size for name, size in (("pp", mode.pp), ("dp", mode.dp)) if size != 1}
    if runtime.is_moe:
        sizes |= {name: size for name, size in (("moe_tp", mode.moe_tp), ("moe_ep", mode.moe_ep)) if size != 1}
    found: dict[str, Any] = {SHORT_NAMES[name]: size for name, size in sizes.items()}
    if runtime.kv_cache_mode and runtime.kv_cache_mode.lower() in ("fp8", "int8"):
        found["kv_cache_dtype"] = runtime.kv_cache_mode.lower()
    if runtime.isl is not None and runtime.osl is not None:
        found["max_seq_len"] = runtime.isl + runtime.osl + _SLACK_TOKENS
    return found


def _override(key: str, value: object, roles: tuple[str, ...], *, prefix: str = "") -> dict[str, Any]:
    """An override as a part of the input: a parameter of the roles, or the one key of a group with that name."""
    name = SHORT_NAMES.get(key, key)
    if name in PARAMETER_NAMES:
        return {"Workers": {role: {name: value} for role in roles}}
    if key == "workers":
        return {"WorkerConfig": {f"{role}_workers": value for role in roles}}
    if key == "memory":
        return {}
    keys = load_schema().entries
    for full in (key, prefix + key):
        group = next((found for found in keys if found.rpartition(".")[2] == full or found == full), None)
        if group is not None:
            head, _, last = group.rpartition(".")
            return {head: {last: value}} if head else {last: value}
    known = [*SHORT_NAMES, *PARAMETER_NAMES, *(found.rpartition(".")[2] for found in keys)]
    near = difflib.get_close_matches(key, known, n=1)
    fix = f"Did you mean {near[0]}?" if near else f"Give {', '.join(SHORT_NAMES)}, or a name that tandem schema lists."
    raise refuse(f"overrides.{prefix}{key}", value, "there is nothing of this name", fix)


def _near(name: str, known: Any) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"Did you mean {near[0]}?" if near else f"Known: {', '.join(known)}."
