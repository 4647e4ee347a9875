"""One pod of a template: its containers as processes with paths, ports and variables of this machine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from tandem.api.problems import Problem
from tandem.local.arguments import PortMap, follow_endpoints_file, localize_arguments, localize_environment
from tandem.local.environment import PodFacts, Sources, container_environment
from tandem.local.expand import expand
from tandem.local.machine import Machine
from tandem.local.spec import PodSpec, ProbeKind, ProbeSpec, UnitSpec
from tandem.local.template import GPU_RESOURCE, Container, Probe, Template
from tandem.local.volumes import PodVolumes, pod_volumes
from tandem.manifests import names

# How a program that is missing gets here.
_INSTALL = {"tandem-serve": "Install the server: pip install 'tandem-operator[serve]'.", "vllm": "Install vLLM here."}


@dataclass(frozen=True, slots=True, kw_only=True)
class PodRequest:
    """A pod to make: `address_port` is its port (number or name) that clients' address leads to, if any."""

    owner: str
    name: str
    namespace: str
    template: Template
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
    """What all pods of a plan have in common.

    `threads` is the number of processor threads for each worker, `gpus` those not given to a container yet.
    """

    machine: Machine
    sources: Sources
    endpoints_file: Path
    threads: int
    gpus: Iterator[str]


def template_path(owner: str) -> str:
    """Where the template of a Deployment is, for messages."""
    return f"Deployment {owner}: spec.template"


def build_pod(pod: PodRequest, *, around: Surroundings, problems: list[Problem]) -> BuiltPod:
    """The processes of a pod; what cannot be run here is added to `problems`, located in the Deployment."""
    body = pod.template.spec
    where = f"{template_path(pod.owner)}.spec"
    home = around.machine.directory / "pods" / pod.name
    volumes = pod_volumes(
        body,
        directory=home,
        claims=around.machine.volumes,
        sources=around.sources,
        where=where,
        problems=problems,
    )
    volumes.directories.append(home)
    if body.init_containers:
        reason = "local mode runs no init containers"
        problems.append(Problem(f"{where}.initContainers", "", reason, "Do their work before the start."))
    units = []
    port = None
    for index, container in enumerate(body.containers):
        at = f"{where}.containers[{index}]"
        maker = _UnitMaker(pod, container, where=at, around=around, volumes=volumes, problems=problems)
        units.append(maker.unit(home))
        port = port or maker.http_port()
    spec = PodSpec(name=pod.name, role=pod.role, revision=pod.revision, port=port, units=tuple(units))
    return BuiltPod(spec, volumes)


class _UnitMaker:
    """Makes the unit of one container."""

    def __init__(
        self,
        pod: PodRequest,
        container: Container,
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
        machine = around.machine
        address = self._declared(pod.address_port)
        numbers = (declared.container_port for declared in container.ports)
        self._ports = PortMap({port: machine.port if port == address else machine.free_port() for port in numbers})

    def unit(self, home: Path) -> UnitSpec:
        container, machine = self._container, self._around.machine
        mounts = self._volumes.mounts_of(container, where=self._where, problems=self._problems)
        own = container_environment(
            container, facts=self._facts(), sources=self._around.sources, where=self._where, problems=self._problems
        )
        argv = tuple(expand(part, own) for part in (*container.command, *container.args))
        argv = localize_arguments(argv, mounts=mounts, ports=self._ports)
        if container.name == names.ROUTER_CONTAINER and "--namespace" in argv:
            argv = follow_endpoints_file(argv, str(self._around.endpoints_file))
        environment = {
            **self._defaults(),
            **machine.environment,
            **self._devices(),
            **localize_environment(own, mounts=mounts, ports=self._ports),
        }
        if scratch := self._volumes.temporary_directory(container):
            environment["TMPDIR"] = str(scratch)
        return UnitSpec(
            pod=self._pod.name,
            container=container.name,
            argv=self._with_program(argv),
            environment=environment,
            directory=Path(mounts.rewrite(container.working_dir)) if container.working_dir else home,
            ports=self._ports.ports,
            probes=tuple(self._probes()),
            grace=float(self._pod.template.spec.termination_grace_period_seconds),
        )

    def _defaults(self) -> dict[str, str]:
        """Variables that the user's shell and the container may set otherwise."""
        return {
            "OMP_THREAD_LIMIT": str(self._around.threads),
            # Several workers share this machine: threads that spin while they wait would slow the others down.
            "OMP_WAIT_POLICY": "PASSIVE",
            "PYTHONUNBUFFERED": "1",
        }

    def _devices(self) -> dict[str, str]:
        """The GPUs of the container, each given to one container only."""
        written = self._container.resources.gpus
        path = f"{self._where}.resources.limits[{GPU_RESOURCE}]"
        if not written.isdecimal():
            self._problems.append(Problem(path, repr(written), "GPUs are counted whole", "Write a whole number."))
            return {}
        wanted = int(written)
        given = list(islice(self._around.gpus, wanted))
        if len(given) < wanted:
            reason = f"this machine has {len(self._around.machine.find_gpus())} GPUs for all containers together"
            self._problems.append(Problem(path, written, reason, "Ask for fewer, or run fewer replicas."))
        return {"CUDA_VISIBLE_DEVICES": ",".join(given)} if wanted else {}

    def http_port(self) -> int | None:
        """The port on this machine of the container's port `http`."""
        port = self._declared(names.HTTP_PORT_NAME)
        return None if port is None else self._moved(port, f"{self._where}.ports")

    def _facts(self) -> PodFacts:
        template = self._pod.template
        return PodFacts(
            name=self._pod.name,
            namespace=self._pod.namespace,
            node=self._around.machine.host_name,
            account=template.spec.service_account_name,
            labels=template.metadata.labels,
            annotations=template.metadata.annotations,
        )

    def _with_program(self, argv: tuple[str, ...]) -> tuple[str, ...]:
        where = f"{self._where}.command"
        if not self._container.command:
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
        container = self._container
        kinds: tuple[tuple[ProbeKind, Probe | None], ...] = (
            ("startup", container.startup_probe),
            ("readiness", container.readiness_probe),
            ("liveness", container.liveness_probe),
        )
        for kind, probe in kinds:
            if probe and (found := self._probe(kind, probe)):
                yield found

    def _probe(self, kind: ProbeKind, probe: Probe) -> ProbeSpec | None:
        where = f"{self._where}.{kind}Probe"
        handler = probe.http_get or probe.tcp_socket
        port = self._declared(handler.port) if handler else None
        if port is None:
            reason = "local mode asks only httpGet and tcpSocket probes, at a port that the container declares"
            self._problems.append(Problem(where, "", reason, "Use httpGet with such a port."))
            return None
        return ProbeSpec(
            kind=kind,
            port=self._moved(port, f"{where}.port"),
            path=probe.http_get.path if probe.http_get else None,
            initial_delay=probe.initial_delay_seconds,
            period=probe.period_seconds,
            timeout=probe.timeout_seconds,
            success_threshold=probe.success_threshold,
            failure_threshold=probe.failure_threshold,
        )

    def _declared(self, port: int | str | None) -> int | None:
        """The container's port by number or name; None when it declares no such port."""
        for declared in self._container.ports:
            if port is not None and port in (declared.container_port, declared.name):
                return declared.container_port
        return None

    def _moved(self, port: int, where: str) -> int:
        """The port on this machine; a problem when the command does not say it, for then it cannot be moved."""
        if port not in self._ports.moved:
            reason = "the command names this port neither as --port nor in a variable that ends in PORT"
            fix = "Give it there, so that the process can listen on a port of its own."
            self._problems.append(Problem(where, str(port), reason, fix))
        return self._ports.ports[port]
