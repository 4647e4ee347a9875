"""How a worker is placed: how many nodes it takes, and which ports its parts use. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from tandem.api.deployment import RoleName
from tandem.api.problems import Refused, refuse
from tandem.manifests import names
from tandem.manifests.backends.base import BackendPods
from tandem.manifests.cluster import Cluster
from tandem.rendering.values import ParameterValue, RoleRendering

LEADER_WORKER_SET = "leaderworkerset.x-k8s.io/v1/LeaderWorkerSet"


@dataclass(frozen=True, slots=True)
class Placement:
    """`nodes` that one worker takes, with `gpus` on each."""

    nodes: int
    gpus: int


def place(role: RoleRendering, backend: BackendPods, cluster: Cluster, *, backend_name: str) -> Placement:
    """The placement of a role's workers as pods; raises `Refused` when they do not fit into this cluster's nodes."""
    placement = spread(role, backend, cluster.gpus_per_node)
    if placement.nodes > 1 and LEADER_WORKER_SET not in cluster.apis:
        why = f"{backend_name} across nodes needs {LEADER_WORKER_SET}, which cannot be used here"
        raise _refusal(role, backend, cluster.gpus_per_node, why, ", or install LeaderWorkerSet 0.9.0 or newer")
    return placement


def spread(role: RoleRendering, backend: BackendPods, gpus_per_node: int) -> Placement:
    """The fewest nodes that share a worker's GPUs evenly; raises `Refused` when the backend runs on one only."""
    gpus = backend.gpus(role)
    nodes = _nodes(gpus, gpus_per_node)
    if nodes > 1 and (why := backend.not_across(role)):
        raise _refusal(role, backend, gpus_per_node, why)
    return Placement(nodes, gpus // nodes)


def _refusal(role: RoleRendering, backend: BackendPods, gpus_per_node: int, why: str, other: str = "") -> Refused:
    cause = _largest(role)
    what = f"one worker ({role.role}) takes {backend.gpus(role)} GPUs, and a node has {gpus_per_node}"
    fix = f"Use at most {gpus_per_node} GPUs for one worker, and more replicas{other}."
    return refuse(cause.detail, cause.text, f"{what}: {why}", fix)


def _nodes(gpus: int, per_node: int) -> int:
    """The least number of nodes that share the GPUs evenly."""
    least = -(-gpus // per_node)
    return next((nodes for nodes in range(max(1, least), gpus) if gpus % nodes == 0), max(1, gpus))


def _largest(role: RoleRendering) -> ParameterValue:
    """The parameter that takes the most GPUs."""
    sizes = [item for item in role.parameters if item.name.endswith("_parallel_size") and isinstance(item.value, int)]
    return max(sizes, key=lambda item: int(item.value))  # type: ignore[arg-type]


def check_ports(role: RoleRendering, name: RoleName, backend: BackendPods, *, mode: str, nodes: int) -> None:
    """Raises `Refused` when two parts of a pod would listen on the same port."""
    taken: dict[str, range] = {"the server": range(names.HTTP_PORT, names.HTTP_PORT + 1)}
    if nodes > 1:
        taken["what brings the worker's nodes together"] = range(backend.meeting_port, backend.meeting_port + 1)
    for part, ports in backend.ports(role, mode).items():
        clash = next((other for other, used in taken.items() if _meet(used, ports)), None)
        if clash is not None:
            given = next((item for item in role.parameters if item.name == "disaggregation_bootstrap_port"), None)
            where = given.detail if given is not None else f"spec.roles.{name}"
            shown = str(ports.start) if len(ports) == 1 else f"{ports.start} to {ports.stop - 1}"
            reason = f"{part} would listen on {shown}, where {clash} listens"
            raise refuse(where, given.text if given else shown, reason, "Choose another port.")
        taken[part] = ports


def _meet(one: range, other: range) -> bool:
    return one.start < other.stop and other.start < one.stop
