"""Who may do what: accounts, the router's rights, and which pods may talk to which."""

from __future__ import annotations

from typing import Any

from tandem.api.deployment import ModelDeployment
from tandem.manifests import names
from tandem.manifests.metadata import Scope
from tandem.manifests.model import KubernetesObject


def accounts(deployment: ModelDeployment) -> list[KubernetesObject]:
    """ServiceAccounts: the workers' has no token in its pods, the router's may watch EndpointSlices."""
    scope = Scope.of(deployment)
    worker = scope.head("v1", "ServiceAccount", names.worker_account(scope.name), scope.labels(names.COMPONENT_WORKER))
    router = scope.head("v1", "ServiceAccount", names.router_name(scope.name), scope.labels(names.COMPONENT_ROUTER))
    return [{**worker, "automountServiceAccountToken": False}, router]


def router_rights(deployment: ModelDeployment) -> list[KubernetesObject]:
    """Role and RoleBinding of the router, in its namespace only."""
    scope = Scope.of(deployment)
    name, labels = names.router_name(scope.name), scope.labels(names.COMPONENT_ROUTER)
    rule = {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["get", "list", "watch"]}
    group = "rbac.authorization.k8s.io"
    role = {**scope.head(f"{group}/v1", "Role", name, labels), "rules": [rule]}
    binding = {
        **scope.head(f"{group}/v1", "RoleBinding", name, labels),
        "roleRef": {"apiGroup": group, "kind": "Role", "name": name},
        "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": scope.namespace}],
    }
    return [role, binding]


def network_policies(deployment: ModelDeployment, *, peers: bool) -> list[KubernetesObject]:
    """The router is open on its port; workers hear the router.

    They hear each other when they hand over KV caches, or when one takes several pods (`peers`).
    """
    scope = Scope.of(deployment)
    http = [{"protocol": "TCP", "port": names.HTTP_PORT}]
    workers: dict[str, Any] = {
        "matchLabels": {names.LABEL_DEPLOYMENT: scope.name},
        "matchExpressions": [{"key": names.LABEL_ROLE, "operator": "Exists"}],
    }
    router = {"matchLabels": names.router_selector(scope.name)}
    to_workers: list[dict[str, Any]] = [{"from": [{"podSelector": router}], "ports": http}]
    if peers or deployment.spec.mode == "disagg":
        to_workers.append({"from": [{"podSelector": workers}]})
    return [
        _policy(scope, names.COMPONENT_WORKER, names.worker_account(scope.name), workers, to_workers),
        _policy(scope, names.COMPONENT_ROUTER, names.router_name(scope.name), router, [{"ports": http}]),
    ]


def _policy(
    scope: Scope, component: str, name: str, selector: dict[str, Any], ingress: list[dict[str, Any]]
) -> KubernetesObject:
    head = scope.head("networking.k8s.io/v1", "NetworkPolicy", name, scope.labels(component))
    return {**head, "spec": {"podSelector": selector, "policyTypes": ["Ingress"], "ingress": ingress}}
