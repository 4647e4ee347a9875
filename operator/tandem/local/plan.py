"""From the objects of a deployment to what runs on this machine. Pure: facts and means of the machine are given."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tandem.api.load import validate_model
from tandem.api.problems import Problem, Refused
from tandem.local.environment import Sources
from tandem.local.machine import Machine
from tandem.local.pod import BuiltPod, PodRequest, Surroundings, build_pod, template_path
from tandem.local.spec import LocalPlan
from tandem.local.template import Template, unread_fields
from tandem.manifests import names

# What these do for a deployment in a cluster has no counterpart between processes of one user.
WITHOUT_MEANING_HERE = frozenset({"ServiceAccount", "Role", "RoleBinding", "PodDisruptionBudget", "NetworkPolicy"})

Object = Mapping[str, Any]


def make_plan(objects: Sequence[Object], *, machine: Machine) -> LocalPlan:
    """What to run for `objects`; raises `Refused` with everything that cannot be run on this machine."""
    return _Planner(objects, machine).plan()


@dataclass(frozen=True, slots=True)
class _Address:
    """A Service with an address of its own: it becomes a port of this machine."""

    name: str
    selector: Mapping[str, str]
    target: int | str

    def serves(self, labels: Mapping[str, str]) -> bool:
        return bool(self.selector) and self.selector.items() <= labels.items()


class _Planner:
    """One run of `make_plan`: collects problems and notes on the way."""

    def __init__(self, objects: Sequence[Object], machine: Machine) -> None:
        self._machine = machine
        self._problems: list[Problem] = []
        self._notes: list[str] = []
        self._by_kind: dict[str, list[Object]] = {}
        for found in objects:
            self._by_kind.setdefault(found["kind"], []).append(found)
        self._endpoints_file = machine.directory / "endpoints.json"
        config_maps = {_name(found): found.get("data") or {} for found in self._by_kind.get("ConfigMap", ())}
        self._sources = Sources(config_maps=config_maps, secrets=machine.secrets)

    def plan(self) -> LocalPlan:
        self._sort_out_kinds()
        pods = list(self._pods())
        self._check_options(pods)
        if self._problems:
            raise Refused(self._problems)
        return LocalPlan(
            deployment=self._deployment_name(),
            pods=tuple(pod.spec for pod in pods),
            files=tuple(file for pod in pods for file in pod.volumes.files),
            directories=tuple(directory for pod in pods for directory in pod.volumes.directories),
            endpoints_file=self._endpoints_file,
            port=self._machine.port,
            notes=tuple(self._notes),
        )

    def _sort_out_kinds(self) -> None:
        known = {"Deployment", "Service", "ConfigMap"}
        for kind, found in self._by_kind.items():
            if kind in WITHOUT_MEANING_HERE:
                self._notes.append(f"{kind} {', '.join(map(_name, found))}: no meaning on one machine, left out")
            elif kind not in known:
                fix = "Run this deployment in a cluster."
                self._problems += [
                    Problem(f"{kind} {_name(each)}", "", "local mode cannot run this", fix) for each in found
                ]

    def _pods(self) -> Iterator[BuiltPod]:
        around = Surroundings(
            machine=self._machine,
            sources=self._sources,
            endpoints_file=self._endpoints_file,
            threads=self._threads_each(),
            gpus=self._gpus(),
        )
        for deployment in self._by_kind.get("Deployment", ()):
            owner = _name(deployment)
            try:
                template = validate_model(Template, deployment["spec"]["template"], f"{template_path(owner)}.")
            except Refused as refused:
                self._problems += refused.problems
                continue
            if unread := unread_fields(deployment["spec"]["template"]):
                self._notes.append(f"Deployment {owner}: no meaning for a process, left out: {', '.join(unread)}")
            labels = template.metadata.labels
            address = next((each for each in self._addresses() if each.serves(labels)), None)
            for index in range(self._replicas(deployment, address)):
                pod = PodRequest(
                    owner=owner,
                    name=f"{owner}-{index}",
                    namespace=deployment["metadata"].get("namespace", "default"),
                    template=template,
                    address_port=address.target if address else None,
                    role=labels.get(names.LABEL_ROLE, ""),
                    revision=labels.get(names.LABEL_REVISION, ""),
                )
                problems: list[Problem] = []
                yield build_pod(pod, around=around, problems=problems)
                # A mistake in a template is told once, not for each of its replicas.
                self._problems += (problem for problem in problems if problem not in self._problems)

    def _gpus(self) -> Iterator[str]:
        """Each GPU once; they are looked for when the first is wanted."""
        yield from self._machine.find_gpus()

    def _addresses(self) -> Iterator[_Address]:
        for service in self._by_kind.get("Service", ()):
            spec = service["spec"]
            if spec.get("clusterIP") != "None":
                port = spec["ports"][0]
                yield _Address(_name(service), spec.get("selector") or {}, port.get("targetPort", port["port"]))

    def _replicas(self, deployment: Object, address: _Address | None) -> int:
        declared = int(deployment["spec"].get("replicas", 1))
        if address is not None and declared > 1:
            why = f"Service {address.name} is one port here"
            self._notes.append(f"Deployment {_name(deployment)}: 1 of {declared} replicas runs, for {why}")
            return 1
        return declared

    def _threads_each(self) -> int:
        """Processor threads per worker: more than the machine has would only spin against each other."""
        workers = sum(
            int(deployment["spec"].get("replicas", 1))
            for deployment in self._by_kind.get("Deployment", ())
            if names.LABEL_ROLE in _labels(deployment)
        )
        return max(1, self._machine.cpus // max(1, workers))

    def _check_options(self, pods: Sequence[BuiltPod]) -> None:
        claims = {claim for pod in pods for claim in pod.volumes.claims}
        known = ", ".join(sorted(claims)) or "none"
        for claim in sorted(self._machine.volumes.keys() - claims):
            reason = "no pod of this deployment mounts that claim"
            self._problems.append(Problem(f"--volume {claim}", "", reason, f"Claims here: {known}."))

    def _deployment_name(self) -> str:
        deployments = self._by_kind.get("Deployment", ())
        return next((_labels(found).get(names.LABEL_DEPLOYMENT, _name(found)) for found in deployments), "")


def _name(found: Object) -> str:
    return str(found["metadata"]["name"])


def _labels(found: Object) -> Mapping[str, str]:
    return found["metadata"].get("labels") or {}
