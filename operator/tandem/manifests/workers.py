"""The objects of one role: Deployment or LeaderWorkerSet, headless Service, ConfigMap, PodDisruptionBudget."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tandem.api.deployment import ModelDeployment, Resources, RoleName
from tandem.manifests import names, timing, tracing
from tandem.manifests.arguments import as_container_args
from tandem.manifests.backends import BACKENDS
from tandem.manifests.backends.base import BackendPods, Part
from tandem.manifests.metadata import Scope
from tandem.manifests.model import KubernetesObject
from tandem.manifests.overlay import apply_overlay
from tandem.manifests.placement import Placement
from tandem.manifests.resources import is_accelerator, resource_lists
from tandem.manifests.security import pod_security, sealed_container_security
from tandem.manifests.sources import ModelAccess
from tandem.rendering.pipeline import Rendering
from tandem.rendering.values import RoleRendering

CONFIG_DIR = "/etc/tandem"
GPU_RESOURCE = "nvidia.com/gpu"
LEADER_WORKER_SET_VERSION = "leaderworkerset.x-k8s.io/v1"
# Extended resources that stand for an accelerator, of any vendor: nvidia.com/mig-1g.5gb, amd.com/gpu, google.com/tpu…


@dataclass(frozen=True, slots=True, kw_only=True)
class Workers:
    """What the objects of all roles are made from.

    `placements` has that of each role. `request_seconds` bounds one request, `load_seconds` the start.
    """

    deployment: ModelDeployment
    access: ModelAccess
    rendering: Rendering
    image: str
    revision: str
    placements: Mapping[str, Placement]
    request_seconds: int
    load_seconds: int


def config_map(workers: Workers, role: RoleRendering) -> KubernetesObject | None:
    """The role's files; its name is made from their content, so it never changes."""
    if not role.files:
        return None
    scope = Scope.of(workers.deployment)
    head = scope.head("v1", "ConfigMap", _config_name(workers, role), scope.labels(role.role))
    head["metadata"]["labels"][names.LABEL_ROLE] = role.role
    return {**head, "immutable": True, "data": dict(role.files)}


def _config_name(workers: Workers, role: RoleRendering) -> str:
    content = names.short_hash(json.dumps(role.files, sort_keys=True))
    return names.config_name(workers.deployment.metadata.name, role.role, content)


def headless_service(workers: Workers, role: RoleRendering) -> KubernetesObject:
    """Makes EndpointSlices that carry role and revision as labels."""
    scope = Scope.of(workers.deployment)
    labels = names.role_labels(scope.name, role.role, workers.revision)
    head = scope.head("v1", "Service", names.workers_name(scope.name, role.role, workers.revision), labels)
    port = {
        "name": names.HTTP_PORT_NAME,
        "port": names.HTTP_PORT,
        "targetPort": names.HTTP_PORT_NAME,
        "protocol": "TCP",
    }
    selector = names.revision_selector(scope.name, role.role, workers.revision)
    if workers.placements[role.role].nodes > 1:
        selector |= names.LEADERS  # the other pods of a worker serve nothing
    return {**head, "spec": {"clusterIP": "None", "selector": selector, "ports": [port]}}


def workload(workers: Workers, role: RoleRendering, name: RoleName) -> KubernetesObject:
    """The role's Deployment, or LeaderWorkerSet when one worker takes several nodes.

    Raises `Refused` for an overlay that cannot be merged.
    """
    source = workers.deployment
    scope = Scope.of(source)
    labels = names.role_labels(scope.name, name, workers.revision)
    surge = source.spec.rollout.max_surge if source.spec.rollout else 1
    nodes = workers.placements[name].nodes
    if nodes > 1:
        group = names.group_name(scope.name, name, workers.revision)
        head = scope.head(LEADER_WORKER_SET_VERSION, "LeaderWorkerSet", group, labels)
        template = {
            "size": nodes,
            "restartPolicy": "RecreateGroupOnPodRestart",
            "leaderTemplate": _template(workers, role, name, leads=True),
            "workerTemplate": _template(workers, role, name, leads=False),
        }
        rolling = {"maxUnavailable": 0, "maxSurge": surge}
        strategy = {"type": "RollingUpdate", "rollingUpdateConfiguration": rolling}
        replicas = source.replicas(name)
        return {**head, "spec": {"replicas": replicas, "rolloutStrategy": strategy, "leaderWorkerTemplate": template}}
    head = scope.head("apps/v1", "Deployment", names.workers_name(scope.name, name, workers.revision), labels)
    return {
        **head,
        "spec": {
            "replicas": source.replicas(name),
            "selector": {"matchLabels": names.revision_selector(scope.name, name, workers.revision)},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": surge}},
            "progressDeadlineSeconds": workers.load_seconds + 600,
            "revisionHistoryLimit": 2,
            "template": _template(workers, role, name, leads=True),
        },
    }


def _template(workers: Workers, role: RoleRendering, name: RoleName, *, leads: bool) -> dict[str, Any]:
    """The pod template of a worker, or of one of its pods on the other nodes."""
    labels = names.role_labels(workers.deployment.metadata.name, name, workers.revision)
    template: dict[str, Any] = {"metadata": {"labels": labels}, "spec": _pod(workers, role, name, leads=leads)}
    overlay = workers.deployment.role(name).pod_template
    return template if overlay is None else apply_overlay(template, overlay, f"spec.roles.{name}.podTemplate")


def pod_containers(workload: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """The containers of the pods that serve, of a Deployment or a LeaderWorkerSet as the cluster has it.

    Somebody may have changed it: the API server takes a LeaderWorkerSet without a leader's template, or an empty one.
    """
    spec = workload["spec"]
    group = spec.get("leaderWorkerTemplate") or {}
    template = spec.get("template") or group.get("leaderTemplate") or group.get("workerTemplate") or {}
    containers: Sequence[Mapping[str, Any]] = (template.get("spec") or {}).get("containers") or ()
    return containers


def disruption_budget(workers: Workers, name: RoleName) -> KubernetesObject | None:
    """Lets one worker of the role go at a time; for a single worker it would only block node drains."""
    if workers.deployment.replicas(name) < 2:
        return None
    scope = Scope.of(workers.deployment)
    labels = scope.labels(name) | {names.LABEL_ROLE: name}
    head = scope.head("policy/v1", "PodDisruptionBudget", names.role_name(scope.name, name), labels)
    selector = {"matchLabels": names.role_selector(scope.name, name)}
    return {**head, "spec": {"maxUnavailable": 1, "selector": selector}}


def _pod(workers: Workers, role: RoleRendering, name: RoleName, *, leads: bool) -> dict[str, Any]:
    spec = workers.deployment.spec
    backend = BACKENDS[spec.backend]
    volumes: list[dict[str, Any]] = [{"name": "tmp", "emptyDir": {}}, *map(dict, workers.access.volumes)]
    if role.files:
        volumes.append({"name": "config", "configMap": {"name": _config_name(workers, role)}})
    if backend.shared_memory:
        volumes.append({"name": "shm", "emptyDir": {"medium": "Memory"}})
    pod: dict[str, Any] = {
        "serviceAccountName": names.worker_account(workers.deployment.metadata.name),
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": timing.grace_seconds(workers.request_seconds),
        "securityContext": pod_security(),
        "containers": [_container(workers, role, name, backend, leads=leads)],
        "volumes": volumes,
    }
    if spec.image_pull_secrets:
        pod["imagePullSecrets"] = [{"name": reference.name} for reference in spec.image_pull_secrets]
    return pod


def _container(
    workers: Workers, role: RoleRendering, name: RoleName, backend: BackendPods, *, leads: bool
) -> dict[str, Any]:
    spec = workers.deployment.spec
    placement = workers.placements[name]
    mounts: list[dict[str, Any]] = [{"name": "tmp", "mountPath": "/tmp"}, *map(dict, workers.access.mounts)]  # noqa: S108 - in the pod
    if role.files:
        mounts.append({"name": "config", "mountPath": CONFIG_DIR, "readOnly": True})
    if backend.shared_memory:
        mounts.append({"name": "shm", "mountPath": "/dev/shm"})  # noqa: S108 - in the pod
    container: dict[str, Any] = {
        "name": names.WORKER_CONTAINER,
        "image": workers.image,
        "command": as_container_args(role.command[: len(workers.rendering.table.command)]),
        "args": _arguments(workers, role, name, backend, leads=leads),
        "ports": _ports(role, backend, workers.deployment.spec.mode),
        "env": _env(workers, role, backend),
        "volumeMounts": mounts,
        "securityContext": sealed_container_security(),
        "lifecycle": timing.drain_hook(),
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    if leads:
        container |= timing.worker_probes(liveness_path=backend.liveness_path, window_seconds=workers.load_seconds)
    resources = _resources(workers.deployment.role(name).resources, placement.gpus)
    if resources:
        container["resources"] = resources
    if spec.image_pull_policy:
        container["imagePullPolicy"] = spec.image_pull_policy
    return container


def _arguments(
    workers: Workers, role: RoleRendering, name: RoleName, backend: BackendPods, *, leads: bool
) -> list[str]:
    """The arguments, with those for several nodes before the user's own."""
    program, own = len(workers.rendering.table.command), len(workers.deployment.role(name).extra_args or ())
    last = len(role.command) - own
    across = backend.across_nodes(_part(backend, leads=leads)) if workers.placements[name].nodes > 1 else ()
    return [*as_container_args(role.command[program:last]), *across, *as_container_args(role.command[last:])]


def _part(backend: BackendPods, *, leads: bool) -> Part:
    """A pod of a LeaderWorkerSet, which gives each of them these variables."""
    return Part(
        nodes="$(LWS_GROUP_SIZE)",
        rank="$(LWS_WORKER_INDEX)",
        address="$(LWS_LEADER_ADDRESS)",
        port=backend.meeting_port,
        leads=leads,
    )


def _ports(role: RoleRendering, backend: BackendPods, mode: str) -> list[dict[str, Any]]:
    """Every port that the worker listens on; local mode gives each a free one of this machine."""
    others = [number for numbers in backend.ports(role, mode).values() for number in numbers]
    http = {"name": names.HTTP_PORT_NAME, "containerPort": names.HTTP_PORT, "protocol": "TCP"}
    return [http, *({"containerPort": number, "protocol": "TCP"} for number in others)]


def _env(workers: Workers, role: RoleRendering, backend: BackendPods) -> list[dict[str, Any]]:
    mode = workers.deployment.spec.mode
    # The root file system is read-only; what libraries cache below the home directory goes to /tmp.
    env: list[dict[str, Any]] = [{"name": "HOME", "value": "/tmp"}]  # noqa: S108 - in the pod
    if mode == "disagg":
        env.append({"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}})
    env += [
        {"name": item["name"], "value": role.environment[item["name"]]} if item["name"] in role.environment else item
        for item in backend.env_list(mode)
    ]
    known = {item["name"] for item in env}
    env += [{"name": key, "value": value} for key, value in role.environment.items() if key not in known]
    env += tracing.worker_env(workers.deployment)
    return env + [dict(item) for item in workers.access.env]


def accelerator_warnings(workers: Workers, name: RoleName) -> Iterator[str]:
    """What does not fit together: fewer accelerators than the parallel sizes need (none at all is a choice)."""
    needed = workers.placements[name].gpus
    for part, amounts in resource_lists(workers.deployment.role(name).resources).items():
        for resource, amount in amounts.items():
            if is_accelerator(resource) and amount.isdigit() and 0 < int(amount) < needed:
                where = f"spec.roles.{name}.resources.{part}[{resource}]"
                yield f"{where}: {amount}, but the worker's parallel sizes need {needed}; leave it out to get {needed}"


def _resources(resources: Resources | None, gpus: int) -> dict[str, dict[str, str]]:
    """The user's resources; GPUs are added unless the user names accelerators already (`nvidia.com/gpu: 0`: none)."""
    lists = resource_lists(resources)
    if gpus and not any(is_accelerator(key) for amounts in lists.values() for key in amounts):
        lists["limits"] = {**lists.get("limits", {}), GPU_RESOURCE: str(gpus)}
    return lists
