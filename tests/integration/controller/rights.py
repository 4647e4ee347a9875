"""Rights of a user in one namespace, to be taken away and given back."""

from __future__ import annotations

import copy
from typing import Any

from tests.integration.controller.api import Api, Refusal

GROUP = "rbac.authorization.k8s.io"
OPERATOR_RULES: list[dict[str, Any]] = [
    {
        "apiGroups": ["tandem.dev"],
        "resources": ["modeldeployments", "modelblueprints", "modeljobs", "modelroutes"],
        "verbs": ["list", "watch"],
    },
    {
        "apiGroups": ["tandem.dev"],
        "resources": ["modeldeployments/status", "modelblueprints/status"],
        "verbs": ["patch"],
    },
    {"apiGroups": ["tandem.dev"], "resources": ["modelblueprints"], "verbs": ["create", "patch", "delete"]},
    {"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["create"]},
    {
        "apiGroups": ["", "apps", "networking.k8s.io", "policy", GROUP],
        "resources": [
            "serviceaccounts",
            "configmaps",
            "services",
            "deployments",
            "networkpolicies",
            "poddisruptionbudgets",
            "roles",
            "rolebindings",
        ],
        "verbs": ["get", "list", "watch", "create", "patch", "delete"],
    },
    {
        "apiGroups": ["leaderworkerset.x-k8s.io"],
        "resources": ["leaderworkersets"],
        "verbs": ["get", "list", "watch", "create", "patch", "delete"],
    },
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"]},
    {"apiGroups": [""], "resources": ["events"], "verbs": ["list", "create"]},
    {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["get", "create", "update"]},
    # Held so that it may be handed on to the router.
    {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["get", "list", "watch"]},
]


def without(verb: str, resource: str) -> list[dict[str, Any]]:
    """The operator's rules but for one verb on one resource."""
    rules = []
    for rule in copy.deepcopy(OPERATOR_RULES):
        if resource in rule["resources"] and verb in rule["verbs"]:
            rest = {**rule, "verbs": [known for known in rule["verbs"] if known != verb], "resources": [resource]}
            rule["resources"].remove(resource)
            rules += [rest] if rest["verbs"] else []
        rules += [rule] if rule["resources"] else []
    return rules


def grant(api: Api, namespace: str, user: str, rules: list[dict[str, Any]]) -> None:
    """Gives `user` exactly these rights in `namespace`."""
    role = {"apiVersion": f"{GROUP}/v1", "kind": "Role", "metadata": {"name": user, "namespace": namespace}}
    binding = {
        **role,
        "kind": "RoleBinding",
        "roleRef": {"apiGroup": GROUP, "kind": "Role", "name": user},
        "subjects": [{"kind": "User", "name": user, "apiGroup": GROUP}],
    }
    try:
        api.create({**role, "rules": rules})
        api.create(binding)
    except Refusal as refusal:
        if refusal.status != 409:
            raise
        api.merge("Role", namespace, user, {"rules": rules})
