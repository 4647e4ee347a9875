"""ModelBlueprint, ModelJob and ModelRoute."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from tandem.api import patterns
from tandem.api.base import (
    ApiModel,
    DataKey,
    DnsLabel,
    DnsName,
    LocalRef,
    ObjectMeta,
    Rule,
    SecretKeyRef,
    exactly_one,
    never,
)
from tandem.api.deployment import HubSource, PvcSource
from tandem.api.status import PlainStatus

Path = Annotated[str, Field(min_length=1, max_length=1024, pattern=patterns.FILE_PATH.regex)]


class ConfigMapKeyRef(ApiModel):
    """One key of a ConfigMap in the same namespace."""

    name: DnsName
    key: DataKey = "config.json"


class BlueprintSource(ApiModel):
    """Where the model's config.json is read from."""

    cel_rules: ClassVar = (
        exactly_one(
            "inline",
            "config_map_ref",
            "pvc",
            "job_ref",
            reason="config.json has exactly one source",
        ),
    )

    inline: Annotated[str, Field(min_length=2, max_length=131_072)] | None = Field(
        None, description="The text of config.json."
    )
    config_map_ref: ConfigMapKeyRef | None = None
    pvc: PvcSource | None = None
    job_ref: LocalRef | None = None


class BlueprintDesign(ApiModel):
    """What a new model should be like."""

    family: Literal["transformer", "diffusion"] = "transformer"
    modality: Literal["text", "image", "audio", "video"] = "text"
    hardware: Literal["edge", "cpu", "gpu", "datacenter_gpu"] = "gpu"
    context: Annotated[str, Field(max_length=16, pattern=patterns.CONTEXT_LENGTH.regex)] = Field(
        "2k", description="Context length: 128k."
    )
    tiny: bool = False
    real_time: bool = False
    seed: Annotated[int, Field(ge=0, le=4_294_967_295)] = 42


class BlueprintBudget(ApiModel):
    """Upper bounds that the model is checked against."""

    max_params: Annotated[int, Field(ge=1)] | None = None
    max_weight_bytes: Annotated[int, Field(ge=1)] | None = None
    max_context: Annotated[int, Field(ge=1)] | None = None


class BlueprintSpec(ApiModel):
    """The frozen facts' source; a blueprint's spec never changes."""

    cel_rules: ClassVar = (
        exactly_one("from_", "design", reason="a blueprint has exactly one origin"),
        Rule(
            cel="self == oldSelf",
            reason="a blueprint is immutable",
            fix="Create a new ModelBlueprint and refer to that.",
            holds=lambda _spec: True,  # a single document has no old value; the API server compares
        ),
    )

    from_: BlueprintSource | None = Field(None, alias="from")
    design: BlueprintDesign | None = None
    budget: BlueprintBudget | None = None


class BlueprintKv(ApiModel):
    """KV cache facts."""

    model_config = ConfigDict(extra="ignore")

    kind: str
    bytes_per_token: int


class BlueprintStatus(PlainStatus):
    """The facts that were read."""

    digest: str | None = None
    total_params: int | None = None
    active_params: int | None = None
    weight_bytes: dict[str, int] | None = Field(None, description="Bytes of all weights per number format.")
    kv: BlueprintKv | None = None
    max_seq_len: int | None = None


class DownloadStep(ApiModel):
    """Fetch a repository."""

    hub: HubSource


class ConvertStep(ApiModel):
    """Turn training checkpoints into safetensors."""

    checkpoint: Path
    base: Path | None = None
    dtype: Literal["float16", "bfloat16", "float32"] = "bfloat16"


class FinetuneStep(ApiModel):
    """Train on a data set."""

    method: Literal["lora", "qlora", "full"] = "lora"
    dataset: Path
    epochs: Annotated[int, Field(ge=1, le=10_000)] = 3
    seed: Annotated[int, Field(ge=0, le=4_294_967_295)] = 42


class GgufStep(ApiModel):
    """Write a GGUF file."""

    type: Literal["q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "f16", "f32"]


class AnalyzeStep(ApiModel):
    """Run an analyzer."""

    analyzer: Annotated[str, Field(min_length=1, max_length=253)]
    config_map_ref: LocalRef | None = None


class JobStep(ApiModel):
    """One step; exactly one kind."""

    cel_rules: ClassVar = (
        exactly_one(
            "download",
            "convert",
            "finetune",
            "gguf",
            "analyze",
            reason="a step does exactly one thing",
        ),
    )

    name: DnsLabel
    download: DownloadStep | None = None
    convert: ConvertStep | None = None
    finetune: FinetuneStep | None = None
    gguf: GgufStep | None = None
    analyze: AnalyzeStep | None = None


class JobSpec(ApiModel):
    """Steps over one output volume, in order."""

    steps: Annotated[tuple[JobStep, ...], Field(min_length=1, max_length=16)]
    output: PvcSource


class JobStatus(PlainStatus):
    """Progress and result."""

    step: str | None = None
    progress: str | None = None


class ServiceTarget(ApiModel):
    """A Service of the cluster that speaks the OpenAI API."""

    name: DnsName
    port: Annotated[int, Field(ge=1, le=65535)] = 8000


class OpenAiTarget(ApiModel):
    """An OpenAI-compatible address."""

    cel_rules: ClassVar = (
        never(
            "api_key",
            reason="a key is never written inline",
            fix="Put it in a Secret and name it in secretRef: {name, key}.",
        ),
    )

    base_url: Annotated[str, Field(max_length=2048, pattern=patterns.BASE_URL.regex)]
    model: Annotated[str, Field(min_length=1, max_length=253)] | None = None
    secret_ref: SecretKeyRef | None = None
    api_key: Annotated[str, Field(max_length=65_536)] | None = Field(
        None, description="Never allowed: put the key in a Secret and name it in secretRef."
    )


class RouteTarget(ApiModel):
    """One link of the chain; exactly one kind."""

    cel_rules: ClassVar = (
        exactly_one("deployment_ref", "service", "openai", reason="a link of the chain has exactly one target"),
    )

    name: DnsLabel
    deployment_ref: LocalRef | None = None
    service: ServiceTarget | None = None
    openai: OpenAiTarget | None = None


class RouteRetry(ApiModel):
    """One retry loop for the whole route."""

    max_attempts: Annotated[int, Field(ge=1, le=10)] = 3


class RouteTimeouts(ApiModel):
    """Deadlines in seconds."""

    first_token_seconds: Annotated[int, Field(ge=1, le=86_400)] = 30
    total_seconds: Annotated[int, Field(ge=1, le=86_400)] = 600


class RouteConstraints(ApiModel):
    """What the route must never do."""

    privacy: Literal["public", "private", "localOnly"] = "private"


class RouteSpec(ApiModel):
    """An ordered fallback chain under one model name."""

    virtual_model: Annotated[str, Field(min_length=1, max_length=253, pattern=patterns.MODEL_NAME.regex)]
    chain: Annotated[tuple[RouteTarget, ...], Field(min_length=1, max_length=16)]
    retry: RouteRetry | None = None
    timeouts: RouteTimeouts | None = None
    constraints: RouteConstraints | None = None


class _Resource(BaseModel):
    model_config = ConfigDict(defer_build=True, frozen=True, extra="forbid", validate_by_name=True)

    api_version: Literal["tandem.dev/v1alpha1"] = Field("tandem.dev/v1alpha1", alias="apiVersion")
    metadata: ObjectMeta


class ModelBlueprint(_Resource):
    """The frozen facts of a model."""

    kind: Literal["ModelBlueprint"] = "ModelBlueprint"
    spec: BlueprintSpec
    status: BlueprintStatus | None = None


class ModelJob(_Resource):
    """Work on a model's files: download, convert, fine-tune, quantise, analyze."""

    kind: Literal["ModelJob"] = "ModelJob"
    spec: JobSpec
    status: JobStatus | None = None


class ModelRoute(_Resource):
    """One model name over several deployments and outside services."""

    kind: Literal["ModelRoute"] = "ModelRoute"
    spec: RouteSpec
    status: PlainStatus | None = None
