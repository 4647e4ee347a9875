"""A release on a real API server: installing, upgrading, rights as the API server sees them."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.cluster.control_plane import ControlPlane
from tests.cluster.processes import wait_until
from tests.integration.chart.helm import CHART, helm

pytestmark = pytest.mark.integration

RELEASE = "tandem"
ROUTERS_ROLE = {
    "apiVersion": "rbac.authorization.k8s.io/v1",
    "kind": "Role",
    "metadata": {"name": "chat-router"},
    "rules": [{"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["get", "list", "watch"]}],
}


@pytest.fixture(scope="module")
def release(control_plane: ControlPlane) -> Iterator[str]:
    """The chart in a namespace of its own, without operator pods; gives the namespace.

    The CRDs may be there already and stay afterwards: the API server is shared with other modules.
    """
    namespace = "release"
    options = (f"--namespace={namespace}", "--create-namespace", "--set=replicaCount=0", "--take-ownership")
    helm(control_plane, "install", RELEASE, str(CHART), *options)
    yield namespace
    helm(control_plane, "uninstall", RELEASE, f"--namespace={namespace}")
    control_plane.kubectl("delete", "namespace", namespace, "--wait=false")


def test_upgrade_leaves_the_lease_with_its_holder(control_plane: ControlPlane, release: str) -> None:
    spec = {"holderIdentity": "me", "leaseDurationSeconds": 13, "leaseTransitions": 4}
    patch = json.dumps({"spec": spec})
    control_plane.kubectl("patch", "lease", RELEASE, f"--namespace={release}", "--type=merge", f"--patch={patch}")
    settings = ("--reuse-values", "--set=logLevel=debug")
    helm(control_plane, "upgrade", RELEASE, str(CHART), f"--namespace={release}", *settings)
    assert control_plane.get("lease", RELEASE, "--namespace", release)["spec"] == spec


def test_crds_taken_over_by_another_release_need_to_be_said(control_plane: ControlPlane, release: str) -> None:
    other = ("install", "other", str(CHART), f"--namespace={release}", "--set=replicaCount=0")
    refused = helm(control_plane, *other, check=False)
    assert "exists and cannot be imported into the current release" in refused.stderr
    helm(control_plane, *other, "--set=crds.enabled=false")
    helm(control_plane, "uninstall", "other", f"--namespace={release}")


def test_a_second_operator_for_the_whole_cluster_is_refused(control_plane: ControlPlane, release: str) -> None:
    here, settings = f"--namespace={release}", ("--set=crds.enabled=false", "--set=rbac.create=false")
    scale = ("scale", "deployment", RELEASE, here)
    other = ("install", "second", str(CHART), "--namespace=second", "--create-namespace", *settings)
    control_plane.kubectl(*scale, "--replicas=1")
    refused = helm(control_plane, *other, check=False)
    assert f"Deployment {release}/{RELEASE} (release {RELEASE}) is a Tandem operator already" in refused.stderr
    # The release itself may be upgraded, and one that serves other namespaces may stand beside it.
    helm(control_plane, "upgrade", RELEASE, str(CHART), here, "--reuse-values", "--set=replicaCount=1")
    helm(control_plane, *other, "--set=watchNamespaces={second}", "--set=replicaCount=0")
    helm(control_plane, "uninstall", "second", "--namespace=second")
    control_plane.kubectl("delete", "namespace", "second", "--wait=false")
    helm(control_plane, "upgrade", RELEASE, str(CHART), here, "--reuse-values", "--set=replicaCount=0")


def test_operator_may_give_routers_their_rights_and_no_more(control_plane: ControlPlane, release: str) -> None:
    operator = control_plane.kubeconfig_for_service_account(release, RELEASE)

    def create(role: object) -> str:
        arguments = ("create", f"--namespace={release}", "--dry-run=server", "--filename=-")
        done = control_plane.kubectl(*arguments, input=json.dumps(role), check=False, kubeconfig=operator)
        return done.stdout + done.stderr

    assert "role.rbac.authorization.k8s.io/chat-router created" in create(ROUTERS_ROLE)
    more = {**ROUTERS_ROLE, "rules": [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}]}
    assert "attempting to grant RBAC permissions not currently held" in create(more)


def test_people_with_the_edit_role_may_write_deployments_and_viewers_may_not(
    control_plane: ControlPlane, release: str
) -> None:
    for role in ("edit", "view"):
        control_plane.kubectl(
            *("create", "rolebinding", role, f"--namespace={release}", f"--clusterrole={role}", f"--user={role}er")
        )

    def may(user: str, verb: str) -> str:
        ask = ("auth", "can-i", verb, "modeldeployments.tandem.dev", f"--namespace={release}", f"--as={user}")
        return control_plane.kubectl(*ask, check=False).stdout.strip()

    # A controller puts the rules of the two roles together, which takes a moment.
    wait_until(lambda: may("editer", "create") == may("viewer", "list") == "yes", what="people may", timeout=20)
    assert may("viewer", "create") == "no"
