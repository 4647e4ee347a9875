"""Status of the resources: metav1 conditions, roles, root cause, the source of every parameter, the inventory."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel


class StatusModel(BaseModel):
    """Written by the operator only, therefore lenient on reading: what an older operator wrote is no error."""

    model_config = ConfigDict(
        defer_build=True,
        frozen=True,
        extra="ignore",
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
    )


class Condition(StatusModel):
    """A metav1.Condition; an absent condition means that it does not apply."""

    type: str
    status: Literal["True", "False", "Unknown"]
    reason: str = Field(description="CamelCase word that stays the same for the same cause.")
    message: str = ""
    last_transition_time: str = Field(description="When status last changed, RFC 3339.")
    observed_generation: int = 0


class RoleStatus(StatusModel):
    """Workers of one role over all revisions."""

    desired: int = 0
    updated: int = 0
    ready: int = 0
    loading: str | None = Field(None, description="How much of the weights a starting worker has loaded: 3.1/14.9 GB.")


class RootCause(StatusModel):
    """The first thing that is wrong, from the pod (or other object) itself."""

    pod: str | None = None
    container: str | None = None
    reason: str
    exit_code: int | None = None
    message: str = ""


class ParameterStatus(StatusModel):
    """An effective engine parameter and where its value comes from."""

    role: str
    name: str
    value: str
    source: Literal["user", "parameters", "rule", "default", "blueprint"]
    detail: str = Field("", description="Path in the spec, or rule file:line.")


class InventoryItem(StatusModel):
    """An object that belongs to the deployment."""

    kind: str
    name: str
    hash: str


class DeploymentStatus(StatusModel):
    """What the operator knows about a ModelDeployment."""

    observed_generation: int = 0
    phase: str | None = Field(None, description="One word for humans; programs read conditions.")
    endpoint: str | None = Field(None, description="Address inside the cluster.")
    revision: str | None = Field(None, description="Revision that the spec asks for.")
    replicas: int | None = Field(None, description="Ready workers of the generating role, for autoscalers.")
    selector: str | None = Field(None, description="Label selector of the generating role's pods, for autoscalers.")
    conditions: tuple[Condition, ...] | None = Field(
        None, json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]}
    )
    roles: dict[str, RoleStatus] | None = None
    root_cause: RootCause | None = None
    parameters: tuple[ParameterStatus, ...] | None = None
    inventory: tuple[InventoryItem, ...] | None = None


class PlainStatus(StatusModel):
    """Status of a kind that has conditions only."""

    observed_generation: int = 0
    conditions: tuple[Condition, ...] | None = Field(
        None, json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]}
    )
