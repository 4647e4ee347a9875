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

    type: str = Field(description="What it is about.")
    status: Literal["True", "False", "Unknown"] = Field(description="Whether it holds.")
    reason: str = Field(description="CamelCase word that stays the same for the same cause.")
    message: str = Field("", description="The same for people.")
    last_transition_time: str = Field(description="When status last changed, RFC 3339.")
    observed_generation: int = Field(0, description="Generation of the spec that it speaks of.")


class RoleStatus(StatusModel):
    """Workers of one role over all revisions."""

    desired: int = Field(0, description="Workers that are wanted.")
    updated: int = Field(0, description="Workers of the newest kind.")
    ready: int = Field(0, description="Workers that serve.")
    loading: str | None = Field(None, description="How much of the weights a starting worker has loaded: 3.1/14.9 GB.")


class RootCause(StatusModel):
    """The first thing that is wrong, from the pod (or other object) itself."""

    pod: str | None = Field(None, description="Name of the pod.")
    container: str | None = Field(None, description="Name of the container.")
    reason: str = Field(description="Why, in one word.")
    exit_code: int | None = Field(None, description="Exit code of the process.")
    message: str = Field("", description="What it said last.")


class ParameterStatus(StatusModel):
    """An effective engine parameter, or the time to start, and where its value comes from."""

    role: str = Field(description="Role that it holds for.")
    name: str = Field(description="Name as in spec.parameters, or startupDeadlineSeconds.")
    value: str = Field(description="Value in effect.")
    source: Literal["user", "parameters", "rule", "default", "blueprint"] = Field(description="Who gave it.")
    detail: str = Field("", description="Path in the spec, or rule file:line.")


class PinnedFacts(StatusModel):
    """What was known of the model when the spec was first rendered: workers run with it until the spec changes."""

    name: str | None = Field(None, description="Name of the ModelBlueprint.")
    digest: str | None = Field(None, description="Digest of its facts; absent where nothing was known yet.")
    facts: str | None = Field(None, description="Its facts, for programs: canonical JSON, zlib, base64.")
    source: str | None = Field(None, description="spec.from of a ModelBlueprint that the deployment names, as JSON.")
    gpu_memory: dict[str, int] | None = Field(None, description="Bytes of one GPU of a worker, by role.")
    spec: str = Field("", description="Hash of the spec that it is for, numbers of workers aside.")


class InventoryItem(StatusModel):
    """An object that belongs to the deployment."""

    kind: str = Field(description="Kind of the object.")
    name: str = Field(description="Its name.")
    hash: str = Field(description="Hash of what it should be.")


class DeploymentStatus(StatusModel):
    """What the operator knows about a ModelDeployment."""

    observed_generation: int = Field(0, description="Generation of the spec that was seen last.")
    phase: str | None = Field(None, description="One word for humans; programs read conditions.")
    endpoint: str | None = Field(None, description="Address inside the cluster.")
    revision: str | None = Field(None, description="Revision that the spec asks for.")
    replicas: int | None = Field(None, description="Ready workers of the generating role, for autoscalers.")
    selector: str | None = Field(None, description="Label selector of the generating role's pods, for autoscalers.")
    conditions: tuple[Condition, ...] | None = Field(
        None,
        description="What holds and what does not.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    )
    roles: dict[str, RoleStatus] | None = Field(None, description="Workers by role.")
    root_cause: RootCause | None = None
    parameters: tuple[ParameterStatus, ...] | None = Field(
        None, description="Engine parameters and startup deadlines in effect."
    )
    blueprint: PinnedFacts | None = None
    inventory: tuple[InventoryItem, ...] | None = Field(None, description="Objects that the deployment is made of.")


class PlainStatus(StatusModel):
    """Status of a kind that has conditions only."""

    observed_generation: int = Field(0, description="Generation of the spec that was seen last.")
    conditions: tuple[Condition, ...] | None = Field(
        None,
        description="What holds and what does not.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    )
