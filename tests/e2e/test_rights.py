"""The operator's rights are what it uses: nothing it asks for is refused, and nothing it was given lies idle."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster.kind import KindCluster
from tests.e2e.release import Release
from tests.e2e.rights import Right, denied, granted, used
from tests.e2e.workspace import SMALL, Object, Workspace, model_deployment
from tests.integration.chart.helm import by_kind, render

pytestmark = pytest.mark.e2e

NAME = "rights"
# Granted, but no request of its own: each with its reason.
TO_GIVE = "who creates the router's Role must hold what it grants, else the API server refuses it as an escalation"
OPTIONAL = "the node's cluster does not serve the kind; an integration test with its schema shows that each is used"
SETS = "leaderworkerset.x-k8s.io", "leaderworkersets"
UNSEEN = {
    Right("tandem.dev", "modeldeployments/finalizers", "update"): "checked by the admission plugin "
    "OwnerReferencesPermissionEnforcement, in clusters that have it, while a child is applied",
    **{Right("discovery.k8s.io", "endpointslices", verb): TO_GIVE for verb in ("get", "list", "watch")},
    **{Right(*SETS, verb): OPTIONAL for verb in ("get", "list", "watch", "create", "patch", "delete")},
}
OTHERS: tuple[Object, ...] = (
    {"kind": "ModelBlueprint", "spec": {"design": {"tiny": True}}},
    {
        "kind": "ModelJob",
        "spec": {"steps": [{"name": "one", "analyze": {"analyzer": "x"}}], "output": {"claimName": "c"}},
    },
    {"kind": "ModelRoute", "spec": {"virtualModel": "m", "chain": [{"name": "one", "service": {"name": "s"}}]}},
)
CHILDREN = "configmaps,deployments,networkpolicies,poddisruptionbudgets,rolebindings,roles,serviceaccounts,services"
SELECTOR = f"tandem.dev/deployment={NAME}"


@pytest.fixture(scope="module")
def exercised(workspace: Workspace) -> Iterator[None]:
    """Everything that the operator ever does, once; without workers, or with one that never starts: quick."""
    routers = {"replicas": 2, "resources": SMALL}
    workspace.apply(model_deployment(NAME, roles={"agg": {"replicas": 0}}, router=routers))
    workspace.wait_until(lambda: len(kinds(workspace)) == CHILDREN.count(",") + 1, "each kind of child is there")
    repair_every_kind(workspace)
    # While a worker starts, nothing is pruned that it might need.
    remove_left_overs(workspace)
    volumes = [{"name": "absent", "configMap": {"name": "no-such-config-map"}}]
    server = {"name": "server", "volumeMounts": [{"name": "absent", "mountPath": "/absent"}]}
    stuck = {"replicas": 1, "podTemplate": {"spec": {"volumes": volumes, "containers": [server]}}}
    workspace.apply(model_deployment(NAME, roles={"agg": stuck}, router=routers))
    # Only Events tell why a volume is not mounted.
    workspace.wait_until(
        lambda: "no-such-config-map" in workspace.root_cause(NAME).get("message", ""),
        "the missing ConfigMap is told",
    )
    both = {"roles": {"prefill": {"replicas": 0}, "decode": {"replicas": 0}}}
    workspace.apply(model_deployment(NAME, mode="disagg", **both))
    workspace.wait_until(lambda: not workspace.list("deployments", f"{SELECTOR},tandem.dev/role=agg"), "agg is pruned")
    share_a_model(workspace)
    for other in OTHERS:
        workspace.apply({"apiVersion": "tandem.dev/v1alpha1", "metadata": {"name": NAME}, **other})
    for other in OTHERS:
        workspace.wait_until(
            lambda kind=other["kind"]: "status" in workspace.get(kind, NAME), f"{other['kind']} has a status"
        )
    yield
    workspace.delete(NAME)


def share_a_model(workspace: Workspace) -> None:
    """Two deployments of one model have one blueprint, until one of them takes another model; GPUs are looked for."""
    gpus = {"backend": "vllm", "roles": {"agg": {"replicas": 0}}, "router": {"replicas": 1, "resources": SMALL}}
    shared = {"pvc": {"claimName": "models", "path": "shared"}}
    for name in ("one", "two"):
        workspace.apply(model_deployment(f"{NAME}-{name}", model=shared, **gpus))
    workspace.wait_until(lambda: owners(workspace) == {f"{NAME}-one", f"{NAME}-two"}, "both own the blueprint")
    for name in ("one", "two"):
        other = {"pvc": {"claimName": "models", "path": f"other-{name}"}}
        workspace.apply(model_deployment(f"{NAME}-{name}", model=other, **gpus))
    workspace.wait_until(lambda: not owners(workspace), "nobody owns the first blueprint")
    workspace.delete(f"{NAME}-one", f"{NAME}-two")


def owners(workspace: Workspace) -> set[str]:
    """The owners of the blueprint of the model in the directory `shared`."""
    for found in workspace.list("modelblueprints"):
        if found["spec"].get("from", {}).get("pvc", {}).get("path") == "shared":
            return {owner["name"] for owner in found["metadata"]["ownerReferences"]}
    return set()


def kinds(workspace: Workspace) -> set[str]:
    return {item["kind"] for item in workspace.list(CHILDREN, SELECTOR)}


def repair_every_kind(workspace: Workspace) -> None:
    """Changes labels of one child of each kind; the operator changes them back, though it loses sight of some."""
    changed = {item["kind"]: item["metadata"]["name"] for item in workspace.list(CHILDREN, SELECTOR)}
    for label in ("app.kubernetes.io/component", "app.kubernetes.io/managed-by"):
        for kind, name in changed.items():
            workspace.label(kind, name, f"{label}=changed")
        for kind, name in changed.items():
            workspace.wait_until(
                lambda kind=kind, name=name, label=label: (
                    workspace.get(kind, name)["metadata"]["labels"][label] != "changed"
                ),
                f"{label} of {kind} {name} is repaired",
            )


def remove_left_overs(workspace: Workspace) -> None:
    """Adds a child of each kind that does not belong, as an older version may have left it; the operator deletes it."""
    metadata = workspace.get("modeldeployment", NAME)["metadata"]
    left = {}
    for child in workspace.list(CHILDREN, SELECTOR):
        left[child["kind"]] = {
            **{key: value for key, value in child.items() if key != "status"},
            "metadata": {
                "name": f"{NAME}-left-over",
                "labels": child["metadata"]["labels"],
                "ownerReferences": child["metadata"]["ownerReferences"],
            },
        }
    assert {owner["uid"] for item in left.values() for owner in item["metadata"]["ownerReferences"]} == {
        metadata["uid"]
    }
    for kind, item in left.items():
        if kind == "Service":
            item["spec"] = {"ports": item["spec"]["ports"]}
        workspace.apply(item)
    workspace.wait_until(
        lambda: (
            not [item for item in workspace.list(CHILDREN, SELECTOR) if item["metadata"]["name"].endswith("left-over")]
        ),
        "what does not belong is pruned",
    )


def test_operator_is_denied_nothing_and_was_given_nothing_too_much(
    workspace: Workspace, release: Release, exercised: None
) -> None:
    if isinstance(workspace.cluster, KindCluster):
        pytest.skip("kind's API server writes no audit log for tests")
    text = render(workspace.cluster, namespace=release.namespace, release=release.name)
    roles = [role for kind in ("ClusterRole", "Role") for role in by_kind(text, kind) if _is_the_operators(role)]
    events = workspace.cluster.audit_events()
    needed = used(events, release.user)
    assert len(needed) > 20
    assert denied(events, release.user) == []
    assert sorted(map(str, granted(roles) - needed - UNSEEN.keys())) == []
    assert sorted(map(str, needed - granted(roles))) == []


def test_router_is_denied_nothing(workspace: Workspace, exercised: None) -> None:
    if isinstance(workspace.cluster, KindCluster):
        pytest.skip("kind's API server writes no audit log for tests")
    user = f"system:serviceaccount:{workspace.namespace}:{NAME}-router"
    workspace.wait_until(lambda: bool(used(workspace.cluster.audit_events(), user)), "the router asks the API server")
    assert denied(workspace.cluster.audit_events(), user) == []
    assert {right.resource for right in used(workspace.cluster.audit_events(), user)} == {"endpointslices"}


def _is_the_operators(role: Object) -> bool:
    return not any(label.startswith("rbac.authorization.k8s.io/aggregate") for label in role["metadata"]["labels"])
