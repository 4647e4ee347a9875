"""The kinds that the operator deals with, and where the API server serves them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote

from tandem.api.base import API_VERSION


@dataclass(frozen=True, slots=True)
class Resource:
    """A namespaced kind: how objects of it name themselves, and how URLs name it."""

    kind: str
    api_version: str
    plural: str

    @property
    def group(self) -> str:
        """The API group; empty for the core group."""
        return self.api_version.rpartition("/")[0]

    @property
    def version(self) -> str:
        """The version without its group."""
        return self.api_version.rpartition("/")[2]

    @property
    def api(self) -> str:
        """`group/version/Kind`, as the APIs of a cluster are named."""
        return f"{self.api_version}/{self.kind}"

    def path(self, namespace: str | None, name: str = "", subresource: str = "") -> str:
        """The URL path of one object, of a namespace's collection, or (no namespace) of the cluster's."""
        root = f"/apis/{self.api_version}" if self.group else f"/api/{self.api_version}"
        inside = f"/namespaces/{quote(namespace)}" if namespace else ""
        tail = "".join(f"/{quote(part)}" for part in (name, subresource) if part)
        return f"{root}{inside}/{self.plural}{tail}"

    def __str__(self) -> str:
        return f"{self.plural}.{self.group}" if self.group else self.plural


MODEL_DEPLOYMENT = Resource("ModelDeployment", API_VERSION, "modeldeployments")
MODEL_BLUEPRINT = Resource("ModelBlueprint", API_VERSION, "modelblueprints")
MODEL_JOB = Resource("ModelJob", API_VERSION, "modeljobs")
MODEL_ROUTE = Resource("ModelRoute", API_VERSION, "modelroutes")

SERVICE_ACCOUNT = Resource("ServiceAccount", "v1", "serviceaccounts")
CONFIG_MAP = Resource("ConfigMap", "v1", "configmaps")
SERVICE = Resource("Service", "v1", "services")
DEPLOYMENT = Resource("Deployment", "apps/v1", "deployments")
ROLE = Resource("Role", "rbac.authorization.k8s.io/v1", "roles")
ROLE_BINDING = Resource("RoleBinding", "rbac.authorization.k8s.io/v1", "rolebindings")
NETWORK_POLICY = Resource("NetworkPolicy", "networking.k8s.io/v1", "networkpolicies")
POD_DISRUPTION_BUDGET = Resource("PodDisruptionBudget", "policy/v1", "poddisruptionbudgets")
LEADER_WORKER_SET = Resource("LeaderWorkerSet", "leaderworkerset.x-k8s.io/v1", "leaderworkersets")
POD = Resource("Pod", "v1", "pods")
EVENT = Resource("Event", "v1", "events")
JOB = Resource("Job", "batch/v1", "jobs")
NODE = Resource("Node", "v1", "nodes")
LEASE = Resource("Lease", "coordination.k8s.io/v1", "leases")

OWN_KINDS = (MODEL_DEPLOYMENT, MODEL_BLUEPRINT, MODEL_JOB, MODEL_ROUTE)
"""The custom resources, watched without a filter."""

CHILD_KINDS = (
    SERVICE_ACCOUNT,
    ROLE,
    ROLE_BINDING,
    CONFIG_MAP,
    NETWORK_POLICY,
    POD_DISRUPTION_BUDGET,
    SERVICE,
    DEPLOYMENT,
)
"""What a ModelDeployment is made of in every cluster."""

OPTIONAL_KINDS = (LEADER_WORKER_SET,)
"""What it may also be made of, where the cluster serves it. These and CHILD_KINDS are ever applied or pruned, and
nothing else is."""

WORKLOAD_KINDS = frozenset({DEPLOYMENT.kind, LEADER_WORKER_SET.kind})
"""The kinds that make pods. They count these alike, in `spec.replicas` and in their status; a LeaderWorkerSet counts
workers, of several pods each."""

FOLLOWED_KINDS = (*CHILD_KINDS, POD)
"""What the operator follows of deployments beside the resources themselves."""

WATCHED_KINDS = (*OWN_KINDS, *FOLLOWED_KINDS)

BY_KIND: Mapping[str, Resource] = {
    resource.kind: resource for resource in (*WATCHED_KINDS, *OPTIONAL_KINDS, EVENT, JOB, LEASE)
}

MANAGED_BY_SELECTOR = "app.kubernetes.io/managed-by=tandem"


def selector_for(resource: Resource) -> str:
    """The label selector that watches and lists of a kind are narrowed with; empty for our own kinds."""
    return "" if resource in OWN_KINDS else MANAGED_BY_SELECTOR
