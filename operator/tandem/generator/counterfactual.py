"""What a parameter would be if nobody had written it. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tandem.api.deployment import ModelDeployment
from tandem.api.problems import Refused
from tandem.manifests import Cluster, ParameterValue, build

if TYPE_CHECKING:
    from tandem.blueprint.model import Blueprint


def without(
    deployment: ModelDeployment, name: str, *, cluster: Cluster, blueprint: Blueprint | None = None
) -> dict[str, ParameterValue | Refused | None]:
    """The value that each role would have without the user's own for the parameter `name` (snake_case).

    None: the engine's own default would hold; `Refused`: why the deployment cannot be without it.
    """
    spec = deployment.spec
    changed: dict[str, Any] = {}
    if spec.parameters is not None:
        changed["parameters"] = _cleared(spec.parameters, name)
    if spec.roles is not None:
        kept: dict[str, Any] = {
            role: found.model_copy(update={"parameters": _cleared(found.parameters, name)})
            for role in deployment.role_names()
            if (found := getattr(spec.roles, role)) is not None and found.parameters is not None
        }
        changed["roles"] = spec.roles.model_copy(update=kept)
    asked = deployment.model_copy(update={"spec": spec.model_copy(update=changed)})
    try:
        values = build(asked, blueprint=blueprint, cluster=cluster).parameters
    except Refused as refused:
        return dict.fromkeys(deployment.role_names(), refused)
    return {
        role: next((value for value in values if (value.role, value.name) == (role, name)), None)
        for role in deployment.role_names()
    }


def _cleared(parameters: Any, name: str) -> Any:
    return parameters.model_copy(update={name: None})
