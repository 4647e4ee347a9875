"""ModelDeployment: a model, a backend and a mode, kept running behind one OpenAI-compatible address."""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from tandem.api import patterns
from tandem.api.access import Access
from tandem.api.amounts import resource_rules
from tandem.api.base import (
    ApiModel,
    DnsName,
    LocalRef,
    ObjectMeta,
    Quantity,
    Rule,
    SecretKeyRef,
    exactly_one,
    field_name,
    never,
)
from tandem.api.parameters import EngineParameters
from tandem.api.status import DeploymentStatus
from tandem.api.tracing import Tracing

Backend = Literal["torch", "vllm", "sglang", "trtllm"]
Mode = Literal["agg", "disagg"]
RoleName = Literal["agg", "prefill", "decode"]
Argument = Annotated[str, Field(min_length=1, max_length=4096)]
Replicas = Annotated[int, Field(ge=0, le=10_000)]

INLINE_CREDENTIAL = r"^--?(hf[-_]?token|api[-_]?key|token|password)(=|$)"


class HubSource(ApiModel):
    """A repository of a model hub."""

    cel_rules: ClassVar = (
        never(
            "token",
            reason="a token is never written inline",
            fix="Put it in a Secret and name it in tokenSecretRef: {name, key}.",
        ),
    )

    repo: Annotated[str, Field(max_length=200, pattern=patterns.REPOSITORY.regex)] = Field(
        description="Repository: OWNER/NAME."
    )
    revision: Annotated[str, Field(min_length=1, max_length=200, pattern=patterns.HUB_REVISION.regex)] = Field(
        "main", description="Branch, tag or commit."
    )
    token_secret_ref: SecretKeyRef | None = Field(None, description="Secret key that holds the hub's access token.")
    token: Annotated[str, Field(max_length=65_536)] | None = Field(
        None, description="Never allowed: put the token in a Secret and name it in tokenSecretRef."
    )


class PvcSource(ApiModel):
    """A directory on a PersistentVolumeClaim, mounted read-only."""

    claim_name: DnsName = Field(description="Name of the PersistentVolumeClaim.")
    path: Annotated[
        str,
        Field(
            max_length=1024,
            pattern=patterns.VOLUME_PATH.regex,
        ),
    ] = Field("", description="Directory of the model inside the volume; empty for the volume's root.")


class ModelSource(ApiModel):
    """Where the model's weights come from."""

    cel_rules: ClassVar = (
        exactly_one(
            "blueprint_ref",
            "hub",
            "pvc",
            "job_ref",
            reason="a model has exactly one source",
        ),
    )
    not_fields: ClassVar = dict.fromkeys(
        ("hf", "huggingface", "modelid", "id", "name", "uri", "url"), "Write hub: {repo: OWNER/NAME}."
    )
    example: ClassVar = "{hub: {repo: OWNER/NAME}} or {pvc: {claimName: CLAIM, path: DIRECTORY}}"

    blueprint_ref: LocalRef | None = Field(None, description="A ModelBlueprint that names its own weights.")
    hub: HubSource | None = None
    pvc: PvcSource | None = None
    job_ref: LocalRef | None = Field(None, description="The artifact of a ModelJob.")
    served_name: Annotated[str, Field(min_length=1, max_length=200, pattern=patterns.MODEL_NAME.regex)] | None = Field(
        None, description="Name under which clients ask for the model; default: the deployment's name."
    )

    @classmethod
    def for_text(cls, text: str) -> str | None:
        """A hub's repository or its address, or a directory."""
        if text.startswith(("/", "./")):
            path = patterns.VOLUME_PATH.correction(text)
            return f"pvc: {{claimName: CLAIM, path: {path}}}" if path else None
        repo = text if re.search(patterns.REPOSITORY.regex, text) else patterns.REPOSITORY.correction(text)
        return f"hub: {{repo: {repo}}}" if repo else None


class Resources(ApiModel):
    """Compute resources of a role's server container."""

    cel_rules: ClassVar = resource_rules()

    limits: Annotated[dict[str, Quantity], Field(max_length=32)] | None = Field(
        None, description="What the container may use at most: memory: 8Gi."
    )
    requests: Annotated[dict[str, Quantity], Field(max_length=32)] | None = Field(
        None, description="What it is promised; default: its limits."
    )


class Role(ApiModel):
    """One pool of equal workers."""

    not_fields: ClassVar = {
        "args": "Write extraArgs.",
        "arguments": "Write extraArgs.",
        "gpus": "The parallel sizes decide that: parameters: {tensorParallelSize: 2}.",
        "gpu": "The parallel sizes decide that: parameters: {tensorParallelSize: 2}.",
    }
    cel_rules: ClassVar = (
        Rule(
            cel=f"!has(self.extraArgs) || self.extraArgs.all(a, !a.matches(r'{INLINE_CREDENTIAL}'))",
            reason="extraArgs must not carry a secret",
            fix="Put it in a Secret and refer to it: model.hub.tokenSecretRef, access.apiKeysSecretRef (the keys of "
            "clients), or env valueFrom.secretKeyRef in podTemplate.",
            field="extraArgs",
            holds=lambda role: not any(_names_secret(argument) for argument in role.extra_args or ()),
        ),
    )

    replicas: Replicas | None = Field(None, description="Number of workers; default 1.")
    parameters: EngineParameters | None = Field(
        None, description="Engine parameters of this role; win over spec.parameters."
    )
    extra_args: Annotated[tuple[Argument, ...], Field(max_length=64)] | None = Field(
        None, description="Arguments passed to the engine as they are, after all others."
    )
    resources: Resources | None = None
    pod_template: dict[str, Any] | None = Field(
        None,
        description="Overlay on the worker's pod template, by strategic merge; the server container is named 'server'.",
        json_schema_extra={"x-kubernetes-preserve-unknown-fields": True},
    )


class Roles(ApiModel):
    """The pools of a deployment: `agg`, or `prefill` and `decode`."""

    agg: Role | None = None
    prefill: Role | None = None
    decode: Role | None = None


class Sla(ApiModel):
    """What the deployment is sized for."""

    isl: Annotated[int, Field(ge=1, le=16_777_216)] | None = Field(None, description="Typical prompt length, tokens.")
    osl: Annotated[int, Field(ge=1, le=16_777_216)] | None = Field(None, description="Typical answer length, tokens.")
    ttft_ms: Annotated[float, Field(gt=0, le=3_600_000)] | None = Field(None, description="Time to first token, ms.")
    tpot_ms: Annotated[float, Field(gt=0, le=3_600_000)] | None = Field(None, description="Time per output token, ms.")


class Limits(ApiModel):
    """Limits on requests; which of them hold depends on the backend."""

    cel_rules: ClassVar = (
        Rule(
            cel="!has(self.defaultMaxNewTokens) || !has(self.maxNewTokens) "
            "|| self.defaultMaxNewTokens <= self.maxNewTokens",
            reason="defaultMaxNewTokens must not be above maxNewTokens",
            fix="Lower defaultMaxNewTokens or raise maxNewTokens.",
            field="defaultMaxNewTokens",
            holds=lambda limits: (
                limits.default_max_new_tokens is None
                or limits.max_new_tokens is None
                or limits.default_max_new_tokens <= limits.max_new_tokens
            ),
        ),
    )

    max_new_tokens: Annotated[int, Field(ge=1, le=131_072)] | None = Field(
        None, description="Cap on generated tokens; default 512."
    )
    default_max_new_tokens: Annotated[int, Field(ge=1, le=131_072)] | None = Field(
        None, description="Generated tokens when the request gives no number; default 64."
    )
    timeout_seconds: Annotated[int, Field(ge=1, le=86_400)] | None = Field(
        None, description="Time for one request; default 60."
    )
    concurrency: Annotated[int, Field(ge=1, le=4096)] | None = Field(
        None, description="Generations that run at once; default 16."
    )
    max_prompt_tokens: Annotated[int, Field(ge=1, le=16_777_216)] | None = Field(
        None, description="Longest prompt; default 2048."
    )
    on_overlong: Literal["reject", "truncate"] | None = Field(
        None, description="What happens to a longer prompt; default reject."
    )
    max_queue: Annotated[int, Field(ge=0, le=100_000)] | None = Field(
        None, description="Requests that may wait; default 64."
    )


class RuleSource(ApiModel):
    """Which rules derive parameters."""

    set: Literal["production", "benchmark"] = Field("production", description="Set of the shipped rules.")
    config_map_ref: LocalRef | None = Field(
        None, description="ConfigMap with <backend>.rule files that replace the shipped ones."
    )


class TemplateSource(ApiModel):
    """Which templates render arguments and files."""

    config_map_ref: LocalRef = Field(description="ConfigMap whose entries replace shipped templates of the same name.")


class Router(ApiModel):
    """The router in front of the workers."""

    replicas: Annotated[int, Field(ge=1, le=100)] = Field(1, description="Number of routers.")
    policy: Literal["roundRobin", "leastLoaded", "prefixAffinity"] = Field(
        "leastLoaded", description="How a router chooses among workers."
    )
    resources: Resources | None = None


class Rollout(ApiModel):
    """How a new revision takes over."""

    max_surge: Annotated[int, Field(ge=1, le=1000)] = Field(
        1, description="Workers above the declared number, per role."
    )


def _below_max_seq_len(limit: str) -> Rule:
    """A limit that the longest sequence leaves no room for. What a role says itself only Tandem looks at."""
    name = field_name(limit)
    given = f"has(self.limits.{name}) && has(self.parameters.maxSeqLen) && !has(self.roles)"
    return Rule(
        cel=f"!has(self.limits) || !has(self.parameters) || !({given}) "
        f"|| self.limits.{name} < self.parameters.maxSeqLen",
        reason=f"{name} must be below maxSeqLen, which holds prompt and answer together",
        fix=f"Lower limits.{name} or raise maxSeqLen in parameters.",
        field=f"limits.{name}",
        holds=lambda spec: not _no_room(spec, limit),
        found=lambda spec: _no_room(spec, limit),
    )


def _no_room(spec: DeploymentSpec, limit: str) -> tuple[str, ...]:
    most = getattr(spec.limits, limit, None)
    roles = [role for role in (getattr(spec.roles, name, None) for name in get_args(RoleName)) if role]
    lengths = [_max_seq_len(role.parameters) or _max_seq_len(spec.parameters) for role in roles]
    found = sorted({length for length in lengths or [_max_seq_len(spec.parameters)] if length})
    return tuple(f"{most}, and maxSeqLen {length}" for length in found if most is not None and most >= length)


def _max_seq_len(parameters: EngineParameters | None) -> int | None:
    return None if parameters is None else parameters.max_seq_len


class DeploymentSpec(ApiModel):
    """What is wanted."""

    example: ClassVar = "{model: {hub: {repo: OWNER/NAME}}}"
    not_fields: ClassVar = dict.fromkeys(
        ("apikey", "apikeys"), "Put the keys in a Secret and write access: {apiKeysSecretRef: {name: SECRET}}."
    )
    cel_rules: ClassVar = (
        Rule(
            cel="self.mode != 'agg' || !has(self.roles) || (!has(self.roles.prefill) && !has(self.roles.decode))",
            reason="mode agg has one role, agg",
            fix="Remove roles.prefill and roles.decode, or set mode: disagg.",
            field="roles",
            holds=lambda spec: (
                spec.mode != "agg" or spec.roles is None or not (spec.roles.prefill or spec.roles.decode)
            ),
        ),
        Rule(
            cel="self.mode != 'disagg' || (has(self.roles) && has(self.roles.prefill) && has(self.roles.decode))",
            reason="mode disagg needs roles.prefill and roles.decode",
            fix="Give both ({} is enough), or set mode: agg.",
            field="mode",
            holds=lambda spec: (
                spec.mode != "disagg"
                or bool(spec.roles is not None and spec.roles.prefill is not None and spec.roles.decode is not None)
            ),
        ),
        Rule(
            cel="self.mode != 'disagg' || !has(self.roles) || !has(self.roles.agg)",
            reason="mode disagg has the roles prefill and decode",
            fix="Remove roles.agg, or set mode: agg.",
            field="roles.agg",
            holds=lambda spec: spec.mode != "disagg" or spec.roles is None or spec.roles.agg is None,
        ),
        *(_below_max_seq_len(limit) for limit in ("max_prompt_tokens", "max_new_tokens")),
    )

    model: ModelSource
    backend: Backend = Field("torch", description="Engine that runs the model.")
    backend_version: Annotated[str, Field(min_length=1, max_length=64, pattern=patterns.VERSION.regex)] | None = Field(
        None, description="Version of the engine; picks its templates. Default: the newest known."
    )
    image: Annotated[str, Field(min_length=1, max_length=1024, pattern=patterns.IMAGE.regex)] | None = Field(
        None, description="Container image of the workers; default per backend and version."
    )
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = Field(
        None, description="When the workers' image is pulled; default: Kubernetes' own."
    )
    image_pull_secrets: Annotated[tuple[LocalRef, ...], Field(max_length=16)] | None = Field(
        None, description="Secrets for pulling images."
    )
    mode: Mode = Field("agg", description="agg: every worker does prefill and decode; disagg: two pools.")
    replicas: Replicas | None = Field(
        None,
        description="Number of the workers that generate (role agg or decode), for kubectl scale and autoscalers; "
        "wins over that role's own replicas.",
    )
    parameters: EngineParameters | None = Field(None, description="Engine parameters for every role.")
    roles: Roles | None = None
    sla: Sla | None = None
    limits: Limits | None = None
    rules: RuleSource | None = None
    templates: TemplateSource | None = None
    router: Router | None = None
    access: Access | None = None
    tracing: Tracing | None = None
    rollout: Rollout | None = None
    override_fits: bool | None = Field(
        None, description="Roll out although a worker needs more memory than it has by the model's blueprint."
    )


class ModelDeployment(BaseModel):
    """A deployment of a model."""

    model_config = ConfigDict(defer_build=True, frozen=True, extra="forbid", validate_by_name=True)

    api_version: Literal["tandem.dev/v1alpha1"] = Field("tandem.dev/v1alpha1", alias="apiVersion")
    kind: Literal["ModelDeployment"] = "ModelDeployment"
    metadata: ObjectMeta
    spec: DeploymentSpec
    status: DeploymentStatus | None = None

    def role_names(self) -> tuple[RoleName, ...]:
        """The roles of its mode, in start order."""
        return ("agg",) if self.spec.mode == "agg" else ("prefill", "decode")

    def role(self, name: RoleName) -> Role:
        """The role as written, or an empty one."""
        roles = self.spec.roles
        return (getattr(roles, name) if roles is not None else None) or Role()

    def replicas(self, name: RoleName) -> int:
        """Declared workers of a role: `spec.replicas` for the generating role, then the role's own, then 1."""
        if name in ("agg", "decode") and self.spec.replicas is not None:
            return self.spec.replicas
        own = self.role(name).replicas
        return 1 if own is None else own

    @property
    def served_name(self) -> str:
        """The model name that clients use."""
        return self.spec.model.served_name or self.metadata.name


def _names_secret(argument: str) -> bool:
    return re.match(INLINE_CREDENTIAL, argument) is not None
