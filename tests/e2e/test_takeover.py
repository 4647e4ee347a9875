"""Uninstalling takes the operator away and nothing of the users'; a new installation goes on where the old one ended.

Last of the suite by its name: it takes away the installation that the other tests share.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.release import NAME, NAMESPACE, Release
from tests.e2e.workspace import Cluster, Workspace, model_deployment, uids

pytestmark = pytest.mark.e2e

KEPT = "kept"
CRDS = {
    f"customresourcedefinition.apiextensions.k8s.io/{plural}.tandem.dev"
    for plural in ("modelblueprints", "modeldeployments", "modeljobs", "modelroutes")
}
OF_EVERY_NAMESPACE = {"configmap/kube-root-ca.crt", "serviceaccount/default"}


@pytest.fixture(scope="module")
def kept(workspace: Workspace) -> dict[str, str]:
    """A serving deployment; gives its pods' uids."""
    workspace.apply(model_deployment(KEPT, limits={"maxNewTokens": 160}))
    workspace.wait_settled(KEPT)
    return uids(workspace.pods(KEPT))


@pytest.fixture(scope="module")
def uninstalled(release: Release, kept: dict[str, str]) -> None:
    release.uninstall()


@pytest.fixture(scope="module")
def installed_again(release: Release, uninstalled: None) -> None:
    release.install()


@pytest.fixture(scope="module")
def namespaced(
    node_cluster: Cluster, workspace: Workspace, release: Release, installed_again: None
) -> Iterator[Release]:
    """A release of another name that serves one namespace, in place of the one for the whole cluster."""
    release.uninstall()
    found = Release(node_cluster, name="team-tandem", namespace=workspace.namespace)
    found.install(f"watchNamespaces={{{workspace.namespace}}}", "crds.enabled=false")
    yield found
    found.uninstall()


def everything(cluster: Cluster, *selection: str) -> set[str]:
    """`kind.group/name` of all objects that can be listed, but Events and endpoints, which come and go."""
    inside = ["--namespaced=true"] if any(option.startswith("--namespace=") for option in selection) else []
    kinds = cluster.kubectl("api-resources", "--verbs=list", "--output=name", *inside).stdout.split()
    asked = ",".join(kind for kind in kinds if not kind.startswith(("events", "endpoints", "componentstatuses")))
    return set(cluster.kubectl("get", asked, "--output=name", *selection).stdout.split())


def test_uninstalling_leaves_the_crds_and_nothing_else_of_the_chart(node_cluster: Cluster, uninstalled: None) -> None:
    assert everything(node_cluster, "--all-namespaces", f"--selector=app.kubernetes.io/instance={NAME}") == CRDS
    assert everything(node_cluster, f"--namespace={NAMESPACE}") == OF_EVERY_NAMESPACE


def test_deployments_serve_on_without_an_operator(
    workspace: Workspace, kept: dict[str, str], uninstalled: None
) -> None:
    assert uids(workspace.pods(KEPT)) == kept
    workspace.assert_recites(KEPT)


def test_new_installation_takes_over_without_restarting_a_pod(
    workspace: Workspace, kept: dict[str, str], installed_again: None
) -> None:
    # It acts again when it follows a change that concerns no pod that is there.
    workspace.scale(KEPT, 2)
    workspace.wait_settled(KEPT)
    assert kept.items() <= uids(workspace.pods(KEPT)).items()
    workspace.scale(KEPT, 1)
    workspace.wait_settled(KEPT)
    workspace.assert_recites(KEPT)


def test_operator_of_one_namespace_takes_over_with_roles_alone(workspace: Workspace, namespaced: Release) -> None:
    before = uids(workspace.pods(KEPT))
    workspace.scale(KEPT, 2)
    workspace.wait_settled(KEPT)
    assert before.items() <= uids(workspace.pods(KEPT)).items()
    labelled = everything(
        workspace.cluster, f"--selector=app.kubernetes.io/instance={namespaced.name}", "--all-namespaces"
    )
    assert not [name for name in labelled if name.startswith("cluster")]
