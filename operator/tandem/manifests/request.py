"""From the custom resource to a rendering request: which value was given where."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pydantic.alias_generators import to_camel

from tandem.api.deployment import ModelDeployment, RoleName
from tandem.api.parameters import EngineParameters
from tandem.manifests import names
from tandem.manifests.workers import CONFIG_DIR
from tandem.rendering.parameters import Given
from tandem.rendering.pipeline import ModelFacts, Request, RoleRequest
from tandem.rendering.values import Source, Value

if TYPE_CHECKING:
    from tandem.blueprint.model import Blueprint


def rendering_request(deployment: ModelDeployment, model: ModelFacts, blueprint: Blueprint | None) -> Request:
    """Everything that rendering depends on, with the path of each value in the spec."""
    spec = deployment.spec
    return Request(
        backend=spec.backend,
        version=spec.backend_version,
        mode=spec.mode,
        rule_set=spec.rules.set if spec.rules else "production",
        roles=tuple(_role(deployment, name) for name in deployment.role_names()),
        model=model,
        limits=_limits(deployment),
        facts=_facts(deployment, blueprint),
        names={"port": names.HTTP_PORT, "config_dir": CONFIG_DIR},
    )


def _role(deployment: ModelDeployment, name: RoleName) -> RoleRequest:
    role = deployment.role(name)
    path = f"spec.roles.{name}"
    shared = _given(deployment.spec.parameters, "parameters", "spec.parameters")
    own = _given(role.parameters, "user", f"{path}.parameters")
    return RoleRequest(
        name=name,
        given={**shared, **own},
        extra_arguments=role.extra_args or (),
        extra_path=f"{path}.extraArgs",
    )


def _given(parameters: EngineParameters | None, source: Source, path: str) -> dict[str, Given]:
    if parameters is None:
        return {}
    values: Mapping[str, Value | None] = {name: getattr(parameters, name) for name in parameters.model_fields_set}
    return {
        name: Given(value, source, f"{path}.{to_camel(name)}")
        for name, value in sorted(values.items())
        if value is not None
    }


def _limits(deployment: ModelDeployment) -> dict[str, Given]:
    limits = deployment.spec.limits
    if limits is None:
        return {}
    values: Mapping[str, Value | None] = {name: getattr(limits, name) for name in limits.model_fields_set}
    return {
        name: Given(value, "user", f"spec.limits.{to_camel(name)}")
        for name, value in sorted(values.items())
        if value is not None
    }


def _facts(deployment: ModelDeployment, blueprint: Blueprint | None) -> dict[str, object]:
    sla = deployment.spec.sla
    facts: dict[str, object] = {}
    if sla is not None:
        facts |= {"isl": sla.isl, "osl": sla.osl, "ttft_ms": sla.ttft_ms, "tpot_ms": sla.tpot_ms}
    if blueprint is not None:
        facts |= {
            "model_max_len": blueprint.max_seq_len,
            "model_params": blueprint.total_params,
            "model_weight_bytes": blueprint.weight_bytes,
            "model_kv_bytes_per_token": blueprint.kv_bytes_per_token,
            "is_moe": blueprint.is_moe,
            "nextn": blueprint.nextn,
        }
    return facts
