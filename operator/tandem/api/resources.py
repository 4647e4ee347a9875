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
from tandem.api.status import PlainStatus, StatusModel

Path = Annotated[str, Field(min_length=1, max_length=1024, pattern=patterns.FILE_PATH.regex)]


class ConfigMapKeyRef(ApiModel):
    """One key of a ConfigMap in the same namespace."""

    name: DnsName = Field(description="Name of the ConfigMap.")
    key: DataKey = Field("config.json", description="Key in it.")


class BlueprintSource(ApiModel):
    """Where the model's config.json is read from."""

    cel_rules: ClassVar = (
        exactly_one(
            "inline",
            "config_map_ref",
            "pvc",
            "hub",
            "job_ref",
            reason="config.json has exactly one source",
        ),
    )

    inline: Annotated[str, Field(min_length=2, max_length=131_072)] | None = Field(
        None, description="The text of config.json."
    )
    config_map_ref: ConfigMapKeyRef | None = None
    pvc: PvcSource | None = None
    hub: HubSource | None = None
    job_ref: LocalRef | None = None


class BlueprintDesign(ApiModel):
    """What a new model should be like."""

    family: Literal["transformer", "diffusion"] = Field("transformer", description="Kind of network.")
    modality: Literal["text", "image", "audio", "video"] = Field("text", description="What it takes and gives.")
    hardware: Literal["edge", "cpu", "gpu", "datacenter_gpu"] = Field("gpu", description="What it shall run on.")
    context: Annotated[str, Field(max_length=16, pattern=patterns.CONTEXT_LENGTH.regex)] = Field(
        "2k", description="Context length: 128k."
    )
    tiny: bool = Field(False, description="As small as can be.")
    real_time: bool = Field(False, description="Small enough to answer at once.")
    seed: Annotated[int, Field(ge=0, le=4_294_967_295)] = Field(42, description="Beginning of all that is random.")


class BlueprintBudget(ApiModel):
    """Upper bounds that the model is checked against."""

    max_params: Annotated[int, Field(ge=1)] | None = Field(None, description="Parameters at most.")
    max_weight_bytes: Annotated[int, Field(ge=1)] | None = Field(None, description="Bytes of all weights at most.")
    max_context: Annotated[int, Field(ge=1)] | None = Field(None, description="Context length at most, in tokens.")


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

    kind: str = Field(description="How keys and values are kept.")
    bytes_per_token: int = Field(description="Bytes of one token over all layers.")


class BlueprintStatus(PlainStatus):
    """The facts that were read."""

    digest: str | None = Field(None, description="Digest of the facts.")
    total_params: int | None = Field(None, description="Parameters of the model.")
    active_params: int | None = Field(None, description="Parameters that one token uses.")
    weight_bytes: dict[str, int] | None = Field(None, description="Bytes of all weights per number format.")
    kv: BlueprintKv | None = None
    max_seq_len: int | None = Field(None, description="Longest sequence, in tokens.")
    facts: str | None = Field(None, description="All facts, for programs: canonical JSON, zlib, base64.")


class DownloadStep(ApiModel):
    """Fetch a repository."""

    hub: HubSource


class ConvertStep(ApiModel):
    """Turn training checkpoints into safetensors."""

    checkpoint: Path = Field(description="Directory of the checkpoint on the output volume.")
    base: Path | None = Field(None, description="Directory or repository that lacking files are taken from.")
    dtype: Literal["float16", "bfloat16", "float32"] = Field("bfloat16", description="Number format of the result.")


class FinetuneStep(ApiModel):
    """Train on a data set."""

    method: Literal["lora", "qlora", "full"] = Field(
        "lora", description="full trains all weights, lora and qlora small ones beside them."
    )
    dataset: Path = Field(description="File of the data set on the output volume.")
    epochs: Annotated[int, Field(ge=1, le=10_000)] = Field(3, description="How often the data set is gone through.")
    seed: Annotated[int, Field(ge=0, le=4_294_967_295)] = Field(42, description="Beginning of all that is random.")


class GgufStep(ApiModel):
    """Write a GGUF file."""

    type: Literal["q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "f16", "f32"] = Field(
        description="Number format of the weights."
    )


class AnalyzeStep(ApiModel):
    """Run an analyzer."""

    analyzer: Annotated[str, Field(min_length=1, max_length=253)] = Field(description="Name of the analyzer.")
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

    name: DnsLabel = Field(description="Name of the step, for its status.")
    download: DownloadStep | None = None
    convert: ConvertStep | None = None
    finetune: FinetuneStep | None = None
    gguf: GgufStep | None = None
    analyze: AnalyzeStep | None = None


class JobSpec(ApiModel):
    """Steps over one output volume, in order."""

    steps: Annotated[tuple[JobStep, ...], Field(min_length=1, max_length=16)] = Field(
        description="What is done, in this order."
    )
    output: PvcSource = Field(description="Volume and directory that the steps read and write.")


class JobArtifact(StatusModel):
    """What a job has made."""

    path: str | None = Field(None, description="Directory on the output volume; default: that of spec.output.")
    digest: str | None = Field(None, description="Digest of its files: another one means another content.")


class JobStatus(PlainStatus):
    """Progress and result; the condition Succeeded says how it ended."""

    step: str | None = Field(None, description="Step that runs, or ran last.")
    progress: str | None = Field(None, description="How far it is.")
    artifact: JobArtifact | None = None


class ServiceTarget(ApiModel):
    """A Service of the cluster that speaks the OpenAI API."""

    name: DnsName = Field(description="Name of the Service.")
    port: Annotated[int, Field(ge=1, le=65535)] = Field(8000, description="Its port.")


class OpenAiTarget(ApiModel):
    """An OpenAI-compatible address."""

    cel_rules: ClassVar = (
        never(
            "api_key",
            reason="a key is never written inline",
            fix="Put it in a Secret and name it in secretRef: {name, key}.",
        ),
    )

    base_url: Annotated[str, Field(max_length=2048, pattern=patterns.BASE_URL.regex)] = Field(
        description="Address, with its version: https://api.example.com/v1."
    )
    model: Annotated[str, Field(min_length=1, max_length=253)] | None = Field(
        None, description="Name of the model there; default: as the client says."
    )
    secret_ref: SecretKeyRef | None = None
    api_key: Annotated[str, Field(max_length=65_536)] | None = Field(
        None, description="Never allowed: put the key in a Secret and name it in secretRef."
    )


class RouteTarget(ApiModel):
    """One link of the chain; exactly one kind."""

    cel_rules: ClassVar = (
        exactly_one("deployment_ref", "service", "openai", reason="a link of the chain has exactly one target"),
    )

    name: DnsLabel = Field(description="Name of the target, for metrics and logs.")
    deployment_ref: LocalRef | None = None
    service: ServiceTarget | None = None
    openai: OpenAiTarget | None = None


class RouteRetry(ApiModel):
    """One retry loop for the whole route."""

    max_attempts: Annotated[int, Field(ge=1, le=10)] = Field(3, description="Attempts over all targets together.")


class RouteTimeouts(ApiModel):
    """Deadlines in seconds."""

    first_token_seconds: Annotated[int, Field(ge=1, le=86_400)] = Field(
        30, description="Time to the first token of one attempt."
    )
    total_seconds: Annotated[int, Field(ge=1, le=86_400)] = Field(600, description="Time for the whole request.")


class RouteConstraints(ApiModel):
    """What the route must never do."""

    privacy: Literal["public", "private", "localOnly"] = Field("private", description="Where prompts may go.")


class RouteSpec(ApiModel):
    """An ordered fallback chain under one model name."""

    virtual_model: Annotated[str, Field(min_length=1, max_length=253, pattern=patterns.MODEL_NAME.regex)] = Field(
        description="Model name that clients ask for."
    )
    chain: Annotated[tuple[RouteTarget, ...], Field(min_length=1, max_length=16)] = Field(
        description="Targets, the first that can answer does."
    )
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
