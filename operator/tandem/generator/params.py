"""The parameters that callers pass between the functions of the API: plain dictionaries, made and read here.

    {service, k8s, workers, params: {agg | prefill, decode}, sla, model, node}

They hold the same as an input, with defaults filled in, under shorter names; they are read back through the same
checks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tandem.api.problems import refuse
from tandem.generator.inputs import WORKERS, Inputs, check_inputs
from tandem.generator.schemas import Scalar, Schema
from tandem.generator.translate import deployment_name

Params = dict[str, Any]
# Group of parameters → group of inputs.
GROUPS: Mapping[str, str] = {
    "service": "ServiceConfig",
    "k8s": "K8sConfig",
    "workers": "WorkerConfig",
    "sla": "SlaConfig",
    "model": "ModelConfig",
    "node": "NodeConfig",
}
# Keys of `k8s` that belong to DynConfig, and those that follow from others.
_DYN = ("mode", "enable_router")
_DERIVED = ("name", "router_mode", "is_kv")


def to_params(inputs: Inputs) -> Params:
    """The parameters of a checked input."""
    params: Params = {group: {} for group in ("service", "k8s", "workers", "params", "sla", "model", "node")}
    for group, source in GROUPS.items():
        for key, resolved in inputs.values.items():
            prefix, _, name = key.partition(".")
            if prefix == source and key != "K8sConfig.mode":
                params[group][name] = resolved.value
    is_kv = inputs.get("DynConfig.enable_router") is True
    params["k8s"] |= {"mode": inputs.mode, "enable_router": is_kv, **_derived(inputs, is_kv)}
    params["params"] = {role: _copy(parameters) for role, parameters in inputs.roles.items()}
    if (rule_set := inputs.get("rule")) is not None:
        params["rule"] = rule_set
    return params


def _derived(inputs: Inputs, is_kv: bool) -> dict[str, Any]:
    """Name and routing by the KV cache: both or neither."""
    return {"name": deployment_name(inputs), "is_kv": is_kv, **({"router_mode": "kv"} if is_kv else {})}


def from_params(
    params: Mapping[str, Any], *, schema: Schema, backend: str, facts: Mapping[str, Scalar | None]
) -> Inputs:
    """The input that parameters stand for, checked; raises `Refused`."""
    raw: dict[str, Any] = {}
    known = (*GROUPS, "params", "rule")
    for group, value in params.items():
        if group not in known:
            raise refuse(str(group), None, "there is no such group of parameters", f"Known: {', '.join(known)}.")
        if group == "rule":
            raw["rule"] = value
        elif not isinstance(value, Mapping):
            raise refuse(group, value, "must be a mapping", "Write keys and values below it.")
        elif group == "params":
            raw[WORKERS] = {role: found for role, found in value.items() if found is not None}
        elif group == "k8s":
            raw["K8sConfig"] = {key: found for key, found in value.items() if key not in (*_DYN, *_DERIVED)}
            raw["DynConfig"] = {key: value[key] for key in _DYN if key in value}
        else:
            raw[GROUPS[group]] = dict(value)
    inputs = check_inputs(raw, schema=schema, backend=backend, facts=facts)
    _check_derived(params.get("k8s", {}), inputs)
    return inputs


def _check_derived(k8s: Mapping[str, Any], inputs: Inputs) -> None:
    wanted = _derived(inputs, inputs.get("DynConfig.enable_router") is True)
    for key in _DERIVED:
        if key in k8s and k8s[key] != wanted.get(key):
            reason = f"it follows from other keys and would be {wanted.get(key)!r}"
            raise refuse(f"k8s.{key}", k8s[key], reason, "Change name_prefix, mode or enable_router instead.")


def _copy(parameters: Mapping[str, object]) -> dict[str, object]:
    return {name: list(value) if isinstance(value, list | tuple) else value for name, value in parameters.items()}
