"""One pod of a template: its containers as processes with paths, ports and variables of this machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tandem.api.problems import Problem
from tandem.local.arguments import PortMap, follow_endpoints_file, localize_arguments, localize_environment
from tandem.local.environment import PodFacts, Sources, container_environment
from tandem.local.expand import expand
from tandem.local.machine import Machine
from tandem.local.spec import PodSpec, ProbeKind, ProbeSpec, UnitSpec
from tandem.local.volumes import PodVolumes, pod_volumes
from tandem.manifests import names

DEFAULT_GRACE_SECONDS = 30
_PROBE_KINDS: tuple[ProbeKind, ...] = ("startup", "readiness", "liveness")
# How a program that is missing gets here.
_INSTALL = {"tandem-serve": "Install the server: pip install 'tandem-operator[serve]'.", "vllm": "Install vLLM here."}


@dataclass(frozen=True, slots=True, kw_only=True)
class PodTemplate:
    """A pod to make: `address_port` is its port (number or name) that clients' address leads to, if any."""

    owner: str
    name: str
    namespace: str
    template: Mapping[str, Any]
    address_port: int | str | None
    role: str
    revision: str


@dataclass(frozen=True, slots=True)
class BuiltPod:
    """A pod and the volumes that have to be there before it starts."""

    spec: PodSpec
    volumes: PodVolumes


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What all pods of a plan have in common; `threads` is the number of processor threads for each worker."""

    machine: Machine
    sources: Sources
    endpoints_file: Path
    threads: int


def build_pod(pod: PodTemplate, *, around: Surroundings, problems: list[Problem]) -> BuiltPod:
    """The processes of a pod; what cannot be run here is added to `problems`, located in the Deployment."""
    spec = pod.template["spec"]
    where = f"Deployment {pod.owner}: spec.template.spec"
    home = around.machine.directory / "pods" / pod.name
    volumes = pod_volumes(
        spec,
        directory=home,
        claims=around.machine.volumes,
        sources=around.sources,
        where=where,
        problems=problems,
    )
    volumes.directories.append(home)
    if spec.get("initContainers"):
        reason = "local mode runs no init containers"
        problems.append(Problem(f"{where}.initContainers", "", reason, "Do their work before the start."))
    units = []
    port = None
    for index, container in enumerate(spec["containers"]):
        maker = _UnitMaker(
            pod,
            container,
            where=f"{where}.containers[{index}]",
            around=around,
            volumes=volumes,
            problems=problems,
        )
        units.append(maker.unit(home))
        port = port or maker.http_port()
    return BuiltPod(
        PodSpec(name=pod.name, role=pod.role, revision=pod.revision, port=port, units=tuple(units)), volumes
    )


class _UnitMaker:
    """Makes the unit of one container."""

    def __init__(
        self,
        pod: PodTemplate,
        container: Mapping[str, Any],
        *,
        where: str,
        around: Surroundings,
        volumes: PodVolumes,
        problems: list[Problem],
    ) -> None:
        self._pod = pod
        self._container = container
        self._where = where
        self._around = around
        self._volumes = volumes
        self._problems = problems
        self._declared = container.get("ports") or ()
        address = self._number(pod.address_port)
        self._ports = PortMap(
            {
                port: around.machine.port if port == address else around.machine.free_port()
                for port in (declared["containerPort"] for declared in self._declared)
            }
        )

    def unit(self, home: Path) -> UnitSpec:
        container, machine = self._container, self._around.machine
        mounts = self._volumes.mounts_of(container, where=self._where, problems=self._problems)
        own = container_environment(
            container, facts=self._facts(), sources=self._around.sources, where=self._where, problems=self._problems
        )
        argv = tuple(expand(part, own) for part in (*(container.get("command") or ()), *(container.get("args") or ())))
        argv = localize_arguments(argv, mounts=mounts, ports=self._ports)
        if container["name"] == names.ROUTER_CONTAINER and "--namespace" in argv:
            argv = follow_endpoints_file(argv, str(self._around.endpoints_file))
        environment = {
            "OMP_NUM_THREADS": str(self._around.threads),
            "PYTHONUNBUFFERED": "1",
            **machine.environment,
            **localize_environment(own, mounts=mounts, ports=self._ports),
        }
        if scratch := self._volumes.temporary_directory(container):
            environment["TMPDIR"] = str(scratch)
        working = container.get("workingDir")
        return UnitSpec(
            pod=self._pod.name,
            container=container["name"],
            argv=self._with_program(argv),
            environment=environment,
            directory=Path(mounts.rewrite(working)) if working else home,
            ports=self._ports.ports,
            probes=tuple(self._probes()),
            grace=float(self._pod.template["spec"].get("terminationGracePeriodSeconds", DEFAULT_GRACE_SECONDS)),
        )

    def http_port(self) -> int | None:
        """The port on this machine of the container's port `http`."""
        port = self._number(names.HTTP_PORT_NAME)
        if port is None:
            return None
        return self._moved(port, f"{self._where}.ports")

    def _facts(self) -> PodFacts:
        metadata = self._pod.template["metadata"]
        return PodFacts(
            name=self._pod.name,
            namespace=self._pod.namespace,
            node=self._around.machine.host_name,
            account=self._pod.template["spec"].get("serviceAccountName", "default"),
            labels=metadata.get("labels") or {},
            annotations=metadata.get("annotations") or {},
        )

    def _with_program(self, argv: tuple[str, ...]) -> tuple[str, ...]:
        where = f"{self._where}.command"
        if not self._container.get("command"):
            reason = "without a command the image would say what to run, and local mode has no image"
            self._problems.append(Problem(where, "", reason, "Give the container a command."))
            return argv
        program = self._around.machine.find_program(argv[0])
        if program is None:
            fix = _INSTALL.get(argv[0], "Install it, or put it on the PATH.")
            self._problems.append(Problem(f"{where}[0]", repr(argv[0]), "this program is not on this machine", fix))
            return argv
        return (program, *argv[1:])

    def _probes(self) -> Iterator[ProbeSpec]:
        for kind in _PROBE_KINDS:
            probe = self._container.get(f"{kind}Probe")
            if probe:
                where = f"{self._where}.{kind}Probe"
                handler = next((name for name in ("httpGet", "tcpSocket") if name in probe), None)
                port = self._number(probe[handler]["port"]) if handler else None
                if handler is None or port is None:
                    reason = "local mode asks only httpGet and tcpSocket probes, at a port that the container declares"
                    self._problems.append(Problem(where, "", reason, "Use httpGet with such a port."))
                    continue
                yield ProbeSpec(
                    kind=kind,
                    port=self._moved(port, f"{where}.{handler}.port"),
                    path=probe[handler].get("path", "/") if handler == "httpGet" else None,
                    initial_delay=float(probe.get("initialDelaySeconds", 0)),
                    period=float(probe.get("periodSeconds", 10)),
                    timeout=float(probe.get("timeoutSeconds", 1)),
                    success_threshold=int(probe.get("successThreshold", 1)),
                    failure_threshold=int(probe.get("failureThreshold", 3)),
                )

    def _number(self, port: int | str | None) -> int | None:
        """The container's port by number or name; None when it declares no such port."""
        for declared in self._declared:
            if port in (declared["containerPort"], declared.get("name")):
                return int(declared["containerPort"])
        return None

    def _moved(self, port: int, where: str) -> int:
        """The port on this machine; a problem when the command does not say it, for then it cannot be moved."""
        if port not in self._ports.moved:
            reason = "the command names this port neither as --port nor in a variable that ends in PORT"
            fix = "Give it there, so that the process can listen on a port of its own."
            self._problems.append(Problem(where, str(port), reason, fix))
        return self._ports.ports[port]
