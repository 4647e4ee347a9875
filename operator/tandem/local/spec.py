"""What is to run: frozen descriptions made by `tandem.local.plan` and carried out by `tandem.local.supervisor`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

LOOPBACK = "127.0.0.1"
ProbeKind = Literal["startup", "readiness", "liveness"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeSpec:
    """A probe as the kubelet understands it, with the port it has on this machine. Times are seconds.

    `path` None: the probe only connects.
    """

    kind: ProbeKind
    port: int
    path: str | None
    initial_delay: float
    period: float
    timeout: float
    success_threshold: int
    failure_threshold: int

    @property
    def target(self) -> str:
        """What is asked, for messages."""
        return f"tcp://{LOOPBACK}:{self.port}" if self.path is None else f"http://{LOOPBACK}:{self.port}{self.path}"


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitSpec:
    """One container as a process.

    `ports` maps ports of the container to those of this machine; `grace` is how long it may take to end after SIGTERM.
    """

    pod: str
    container: str
    argv: tuple[str, ...]
    environment: Mapping[str, str]
    directory: Path
    ports: Mapping[int, int]
    probes: tuple[ProbeSpec, ...]
    grace: float

    @property
    def name(self) -> str:
        """Unique among the units of a plan."""
        return f"{self.pod}/{self.container}"

    def probe(self, kind: ProbeKind) -> ProbeSpec | None:
        """The probe of that kind, if there is one."""
        return next((probe for probe in self.probes if probe.kind == kind), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class PodSpec:
    """The units that share a pod's name; `role` is empty for pods that serve no model (the router).

    `port` is where the pod serves HTTP on this machine (None when it does not).
    """

    name: str
    role: str
    revision: str
    port: int | None
    units: tuple[UnitSpec, ...]


@dataclass(frozen=True, slots=True)
class FileSpec:
    """A file to write before anything starts, with its access mode."""

    path: Path
    content: bytes
    mode: int = 0o644


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalPlan:
    """Everything that `local up` is going to do.

    `port` is where clients reach the deployment; `notes` say what of the objects has no meaning on one machine.
    """

    deployment: str
    pods: tuple[PodSpec, ...]
    files: tuple[FileSpec, ...]
    directories: tuple[Path, ...]
    endpoints_file: Path
    port: int
    notes: tuple[str, ...]

    @property
    def workers(self) -> tuple[PodSpec, ...]:
        """The pods that serve the model."""
        return tuple(pod for pod in self.pods if pod.role)
