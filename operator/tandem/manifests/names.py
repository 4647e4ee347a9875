"""Every name, label and port of a deployment's objects, in one place.

A name that would exceed its limit is cut and ends in a hash of the whole, so that two long names never meet.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping

from tandem.api import labels

FIELD_MANAGER = "tandem"

LABEL_NAME = "app.kubernetes.io/name"
LABEL_INSTANCE = "app.kubernetes.io/instance"
LABEL_COMPONENT = "app.kubernetes.io/component"
LABEL_MANAGED_BY = "app.kubernetes.io/managed-by"
LABEL_DEPLOYMENT = labels.DEPLOYMENT
LABEL_ROLE = labels.ROLE
LABEL_REVISION = labels.REVISION
LABEL_LLM_D_ROLE = "llm-d.ai/role"

# What LeaderWorkerSet says of the pod that a worker is reached by.
LEADERS: Mapping[str, str] = {"leaderworkerset.sigs.k8s.io/worker-index": "0"}
# Which of its workers a pod belongs to.
LABEL_GROUP = "leaderworkerset.sigs.k8s.io/group-key"

APP = "tandem"
COMPONENT_ROUTER = "router"
COMPONENT_WORKER = "worker"
WORKER_CONTAINER = "server"
ROUTER_CONTAINER = "router"

HTTP_PORT = 8000
HTTP_PORT_NAME = "http"

# RFC 1035, the stricter of the two forms of DNS labels: Services must not start with a digit.
SERVICE_NAME = re.compile(r"^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$")
MAX_LABEL = 63
_HASH_LENGTH = 8
_LLM_D_ROLES: Mapping[str, str] = {"prefill": "prefill", "decode": "decode", "agg": "both"}


def short_hash(text: str, length: int = _HASH_LENGTH) -> str:
    """The first `length` hexadecimal digits of the SHA-256 of `text`."""
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def shortened(name: str, limit: int = MAX_LABEL) -> str:
    """`name`, or its beginning and a hash of the whole when it is longer than `limit`."""
    if len(name) <= limit:
        return name
    return f"{name[: limit - _HASH_LENGTH - 1].rstrip('-.')}-{short_hash(name)}"


def workers_name(deployment: str, role: str, revision: str) -> str:
    """Name of a role's Deployment and headless Service: `NAME-ROLE-REV`.

    Role and revision are kept whole; the deployment's name is what gets shortened.
    """
    suffix = f"-{role}-{revision}"
    return shortened(deployment, MAX_LABEL - len(suffix)) + suffix


def group_name(deployment: str, role: str, revision: str) -> str:
    """Name of a role's LeaderWorkerSet: `NAME-ROLE-REV-nodes`.

    LeaderWorkerSet makes a Service of its own with this name, so it differs from the role's; and appends two numbers
    for the names of pods, which are DNS labels too.
    """
    suffix = f"-{role}-{revision}-nodes"
    return shortened(deployment, MAX_LABEL - len("-9999-9999") - len(suffix)) + suffix


def role_name(deployment: str, role: str) -> str:
    """Name of what a role has once, whatever its revision (its PodDisruptionBudget): `NAME-ROLE`."""
    return shortened(deployment, MAX_LABEL - len(role) - 1) + f"-{role}"


def router_name(deployment: str) -> str:
    """Name of the router's Deployment, ServiceAccount, Role, RoleBinding, PodDisruptionBudget and NetworkPolicy."""
    return role_name(deployment, COMPONENT_ROUTER)


def worker_account(deployment: str) -> str:
    """Name of the ServiceAccount and of the NetworkPolicy of the workers: `NAME-worker`."""
    return role_name(deployment, COMPONENT_WORKER)


def config_name(deployment: str, role: str, content_hash: str) -> str:
    """Name of a role's ConfigMap: `NAME-ROLE-CONTENTHASH`."""
    return workers_name(deployment, role, content_hash)


def service_name(deployment: str) -> str:
    """Name of the Service that clients use: the deployment's own."""
    return deployment


def common_labels(deployment: str, component: str) -> dict[str, str]:
    """Labels that every child carries."""
    return {
        LABEL_NAME: APP,
        LABEL_INSTANCE: deployment,
        LABEL_COMPONENT: component,
        LABEL_MANAGED_BY: APP,
        LABEL_DEPLOYMENT: deployment,
    }


def role_labels(deployment: str, role: str, revision: str) -> dict[str, str]:
    """Labels of a role's objects and pods; EndpointSlices inherit them from the headless Service."""
    return common_labels(deployment, role) | {
        LABEL_ROLE: role,
        LABEL_REVISION: revision,
        LABEL_LLM_D_ROLE: _LLM_D_ROLES[role],
    }


def role_selector(deployment: str, role: str) -> dict[str, str]:
    """Selects a role's pods of every revision."""
    return {LABEL_DEPLOYMENT: deployment, LABEL_ROLE: role}


def revision_selector(deployment: str, role: str, revision: str) -> dict[str, str]:
    """Selects a role's pods of one revision."""
    return role_selector(deployment, role) | {LABEL_REVISION: revision}


def router_selector(deployment: str) -> dict[str, str]:
    """Selects the router's pods."""
    return {LABEL_DEPLOYMENT: deployment, LABEL_COMPONENT: COMPONENT_ROUTER}


def selector_text(labels: Mapping[str, str]) -> str:
    """A selector as text (`a=1,b=2`), as in the status for autoscalers."""
    return ",".join(f"{key}={value}" for key, value in sorted(labels.items()))
