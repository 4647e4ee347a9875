"""The parts of a pod template that local mode reads. Everything else has no meaning for a process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

GPU_RESOURCE = "nvidia.com/gpu"


class _Read(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="ignore", alias_generator=to_camel)


class _Union(_Read):
    """One of several sources; one that is not declared here shows in `unknown`."""

    model_config = ConfigDict(extra="allow")

    @property
    def unknown(self) -> str | None:
        """The name of a source that local mode does not know."""
        return next(iter(self.model_extra or {}), None)


class NameRef(_Read):
    """A ConfigMap or Secret."""

    name: str
    optional: bool = False


class KeyRef(NameRef):
    """A key of one."""

    key: str


class FieldRef(_Read):
    """A field of the pod."""

    field_path: str


class ValueSource(_Union):
    """Where a variable's value comes from."""

    field_ref: FieldRef | None = None
    config_map_key_ref: KeyRef | None = None
    secret_key_ref: KeyRef | None = None


class Variable(_Read):
    """An entry of `env`."""

    name: str
    value: str = ""
    value_from: ValueSource | None = None


class VariableSource(_Union):
    """An entry of `envFrom`."""

    prefix: str = ""
    config_map_ref: NameRef | None = None
    secret_ref: NameRef | None = None


class Port(_Read):
    """A declared port."""

    container_port: int
    name: str | None = None


class HttpGet(_Read):
    """A question by HTTP."""

    port: int | str
    path: str = "/"


class TcpSocket(_Read):
    """A question whether somebody listens."""

    port: int | str


class Probe(_Read):
    """A probe, with the API server's defaults."""

    http_get: HttpGet | None = None
    tcp_socket: TcpSocket | None = None
    initial_delay_seconds: float = 0
    period_seconds: float = 10
    timeout_seconds: float = 1
    success_threshold: int = 1
    failure_threshold: int = 3


class VolumeMount(_Read):
    """Where a container sees a volume."""

    name: str
    mount_path: str
    sub_path: str = ""


class Resources(_Read):
    """What a container may use; of this only devices matter here."""

    limits: dict[str, int | str] = Field(default_factory=dict)

    @property
    def gpus(self) -> str:
        """How many GPUs of NVIDIA, as it was written; other vendors' are left to the process."""
        return str(self.limits.get(GPU_RESOURCE, 0))


class Container(_Read):
    """A container."""

    name: str
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    working_dir: str | None = None
    env: tuple[Variable, ...] = ()
    env_from: tuple[VariableSource, ...] = ()
    ports: tuple[Port, ...] = ()
    volume_mounts: tuple[VolumeMount, ...] = ()
    startup_probe: Probe | None = None
    readiness_probe: Probe | None = None
    liveness_probe: Probe | None = None
    resources: Resources = Resources()


class Item(_Read):
    """A key of a ConfigMap or Secret and the file it becomes."""

    key: str
    path: str


class ConfigMapVolume(NameRef):
    """Files from a ConfigMap."""

    items: tuple[Item, ...] = ()


class SecretVolume(_Read):
    """Files from a Secret."""

    secret_name: str
    optional: bool = False
    items: tuple[Item, ...] = ()


class Claim(_Read):
    """A volume claim."""

    claim_name: str


class HostPath(_Read):
    """A path of the node."""

    path: str


class Volume(_Union):
    """A volume; without any source it is an emptyDir."""

    name: str
    config_map: ConfigMapVolume | None = None
    secret: SecretVolume | None = None
    persistent_volume_claim: Claim | None = None
    host_path: HostPath | None = None
    empty_dir: dict[str, Any] | None = None


class Metadata(_Read):
    """The pod's metadata."""

    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)


class PodBody(_Read):
    """The pod's spec."""

    containers: Annotated[tuple[Container, ...], Field(min_length=1)]
    init_containers: tuple[Any, ...] = ()
    volumes: tuple[Volume, ...] = ()
    service_account_name: str = "default"
    termination_grace_period_seconds: int = 30


class Template(_Read):
    """`spec.template` of a Deployment."""

    metadata: Metadata
    spec: PodBody


def unread_fields(template: Mapping[str, Any]) -> tuple[str, ...]:
    """Fields of a pod template's spec and containers that local mode does not read, by name."""
    spec = template["spec"]
    unread = set(spec) - _aliases(PodBody)
    for container in spec["containers"]:
        unread |= set(container) - _aliases(Container) - {"image", "imagePullPolicy"}
    return tuple(sorted(unread))


def _aliases(model: type[BaseModel]) -> set[str]:
    return {field.alias or name for name, field in model.model_fields.items()}
