"""The names of rules: what their expressions may read and their lines may set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import get_args

from tandem.api.deployment import Backend, Mode, RoleName
from tandem.api.parameters import KvCacheDtype
from tandem.rendering.expressions import Name
from tandem.rendering.mapping import PARAMETER_NAMES

ROLES: tuple[str, ...] = get_args(RoleName)
CONTEXT_NAMES = (
    *("role", "mode", "backend", "version"),
    *("isl", "osl", "ttft_ms", "tpot_ms", "concurrency"),
    *("model_max_len", "model_params", "model_weight_bytes", "model_kv_bytes_per_token"),
    *("is_moe", "nextn"),
)
_CHOICES: Mapping[str, tuple[str, ...]] = {
    "role": ROLES,
    "mode": get_args(Mode),
    "backend": get_args(Backend),
    "kv_cache_dtype": get_args(KvCacheDtype),
}
# Names under which aiconfigurator's rule files read the same values. Its bare `isl`, which is the sequence length
# there, is not among them: `isl` is the length of a prompt.
_ALIASES: Mapping[str, str] = {
    "bs": "max_batch_size",
    "DynConfig.mode": "mode",
    "ModelConfig.is_moe": "is_moe",
    "ModelConfig.nextn": "nextn",
    "SlaConfig.isl": "isl",
    "SlaConfig.osl": "osl",
}
_OWN = {name: Name(name, _CHOICES.get(name, ())) for name in (*PARAMETER_NAMES, *CONTEXT_NAMES)}
NAMES: Mapping[str, Name] = {**_OWN, **{alias: _OWN[name] for alias, name in _ALIASES.items()}}


def why_not_set(name: str) -> tuple[str, str]:
    """Why a line cannot set `name`, which is no parameter, and what to do."""
    if name in _ALIASES and _ALIASES[name] in PARAMETER_NAMES:
        return f"{name} is a short name for reading", f"Write {_ALIASES[name]}."
    if name in NAMES:
        return f"{name} is a fact that rules read and cannot change", "Set it in the ModelDeployment."
    if name == "gpus_per_worker":
        return f"{name} is no parameter", "Remove the line: a worker's GPUs follow from its parallel sizes."
    if "." in name:
        reason = f"rules set engine parameters, and {name} is none"
        return reason, "Remove the line and set it in the ModelDeployment."
    return "there is no parameter of this name", f"Known: {', '.join(PARAMETER_NAMES)}."
