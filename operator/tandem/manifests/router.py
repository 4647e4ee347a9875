"""The router: Deployment, Service for clients, rights, PodDisruptionBudget."""

from __future__ import annotations

from typing import Any

from tandem.api.deployment import ModelDeployment, Router
from tandem.manifests import names, timing, tracing
from tandem.manifests.arguments import as_container_args
from tandem.manifests.cluster import Cluster
from tandem.manifests.metadata import Scope
from tandem.manifests.model import KubernetesObject
from tandem.manifests.resources import resource_lists
from tandem.manifests.security import pod_security, sealed_container_security

KEYS_DIR = "/etc/tandem/access"
KEYS_FILE = "api-keys"
_KEYS_VOLUME = "api-keys"
_RESOURCES = {"requests": {"cpu": "100m", "memory": "192Mi"}}


def _router(deployment: ModelDeployment) -> Router:
    return deployment.spec.router or Router()


def router_deployment(deployment: ModelDeployment, *, cluster: Cluster, request_seconds: int) -> KubernetesObject:
    """The router's Deployment."""
    scope = Scope.of(deployment)
    router = _router(deployment)
    labels = scope.labels(names.COMPONENT_ROUTER)
    selector = names.router_selector(scope.name)
    head = scope.head("apps/v1", "Deployment", names.router_name(scope.name), labels)
    return {
        **head,
        "spec": {
            "replicas": router.replicas,
            "selector": {"matchLabels": selector},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
            "revisionHistoryLimit": 2,
            "template": {
                "metadata": {"labels": dict(labels)},
                "spec": _pod(deployment, router, cluster, request_seconds),
            },
        },
    }


def _pod(deployment: ModelDeployment, router: Router, cluster: Cluster, request_seconds: int) -> dict[str, Any]:
    spec = deployment.spec
    container: dict[str, Any] = {
        "name": names.ROUTER_CONTAINER,
        "image": cluster.router_image,
        "command": ["tandem"],
        "args": as_container_args(_arguments(deployment, router, request_seconds)),
        "ports": [{"name": names.HTTP_PORT_NAME, "containerPort": names.HTTP_PORT, "protocol": "TCP"}],
        "env": [{"name": "HOME", "value": "/tmp"}, *tracing.router_env(deployment)],  # noqa: S108 - in the pod
        "resources": resource_lists(router.resources) or {kind: dict(value) for kind, value in _RESOURCES.items()},
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],  # noqa: S108 - in the pod
        "securityContext": sealed_container_security(),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        **timing.router_probes(),
    }
    if spec.image_pull_policy:
        container["imagePullPolicy"] = spec.image_pull_policy
    keys = _keys_volume(deployment)
    if keys is not None:
        container["volumeMounts"].append({"name": _KEYS_VOLUME, "mountPath": KEYS_DIR, "readOnly": True})
    pod: dict[str, Any] = {
        "serviceAccountName": names.router_name(deployment.metadata.name),
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": timing.grace_seconds(request_seconds) + timing.SLACK_SECONDS,
        "securityContext": pod_security(),
        "containers": [container],
        "volumes": [{"name": "tmp", "emptyDir": {}}, *([] if keys is None else [keys])],
    }
    if spec.image_pull_secrets:
        pod["imagePullSecrets"] = [{"name": reference.name} for reference in spec.image_pull_secrets]
    return pod


def _keys_volume(deployment: ModelDeployment) -> dict[str, Any] | None:
    """The Secret with the clients' API keys: mounted as a directory, because a subPath would never change."""
    access = deployment.spec.access
    if access is None or access.api_keys_secret_ref is None:
        return None
    reference = access.api_keys_secret_ref
    items = [{"key": reference.key, "path": KEYS_FILE}]
    return {"name": _KEYS_VOLUME, "secret": {"secretName": reference.name, "items": items}}


def _arguments(deployment: ModelDeployment, router: Router, request_seconds: int) -> list[str]:
    """`tandem router …`; the router drains by itself on SIGTERM, so it has no preStop hook."""
    scope = Scope.of(deployment)
    return [
        "router",
        *("--deployment", scope.name, "--namespace", scope.namespace),
        *("--backend", deployment.spec.backend, "--mode", deployment.spec.mode, "--policy", router.policy),
        *("--host", "0.0.0.0", "--port", str(names.HTTP_PORT)),
        *("--served-model-name", deployment.served_name),
        # A worker ends a request by itself; the router waits a little longer, so that the worker's answer counts.
        *("--request-seconds", str(request_seconds + timing.SLACK_SECONDS)),
        *("--drain-seconds", str(timing.DRAIN_SECONDS)),
        *("--grace-seconds", str(timing.grace_seconds(request_seconds))),
        *([] if _keys_volume(deployment) is None else ["--api-key-file", f"{KEYS_DIR}/{KEYS_FILE}"]),
    ]


def client_service(deployment: ModelDeployment) -> KubernetesObject:
    """The one address of the deployment: NAME:8000."""
    scope = Scope.of(deployment)
    head = scope.head("v1", "Service", names.service_name(scope.name), scope.labels(names.COMPONENT_ROUTER))
    port = {
        "name": names.HTTP_PORT_NAME,
        "port": names.HTTP_PORT,
        "targetPort": names.HTTP_PORT_NAME,
        "protocol": "TCP",
    }
    return {**head, "spec": {"type": "ClusterIP", "selector": names.router_selector(scope.name), "ports": [port]}}


def router_budget(deployment: ModelDeployment) -> KubernetesObject | None:
    """Lets one router go at a time when there are several."""
    if _router(deployment).replicas < 2:
        return None
    scope = Scope.of(deployment)
    labels = scope.labels(names.COMPONENT_ROUTER)
    head = scope.head("policy/v1", "PodDisruptionBudget", names.router_name(scope.name), labels)
    selector = {"matchLabels": names.router_selector(scope.name)}
    return {**head, "spec": {"maxUnavailable": 1, "selector": selector}}
