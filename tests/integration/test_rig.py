"""The rig's control plane is a real one: its controllers work, it can be restarted, it tells who asked for what."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.cluster.binaries import KUBERNETES_VERSION, cache_root
from tests.cluster.control_plane import ControlPlane

pytestmark = pytest.mark.integration

DEPLOYMENT: dict[str, Any] = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "web"},
    "spec": {
        "replicas": 2,
        "selector": {"matchLabels": {"app": "web"}},
        "template": {
            "metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "web", "image": "localhost/none:1"}]},
        },
    },
}
SERVICE: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "web"},
    "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]},
}


def eventually(fetch: Callable[[], list[Any]], *, count: int, timeout: float = 120) -> list[Any]:
    """Polls until `fetch` gives `count` items.

    Controllers act in their own time: one whose connection broke tries again after up to a minute (client-go's
    reflectors double their wait to 30 s and add as much again by chance).
    """
    deadline = time.monotonic() + timeout
    while len(found := fetch()) != count:
        assert time.monotonic() < deadline, f"{len(found)} instead of {count} after {timeout} s"
        time.sleep(0.1)
    return found


def test_server_knows_its_version(control_plane: ControlPlane) -> None:
    version = json.loads(control_plane.kubectl("version", "-o", "json").stdout)["serverVersion"]
    built_here = control_plane.bin("kube-apiserver").is_relative_to(cache_root(os.environ))
    assert version["gitVersion"] == KUBERNETES_VERSION if built_here else version["gitVersion"].startswith("v1.")


def test_controllers_make_replica_sets_pods_and_endpoint_slices(control_plane: ControlPlane, namespace: str) -> None:
    for document in (DEPLOYMENT, SERVICE):
        control_plane.kubectl("apply", "-n", namespace, "-f", "-", input=json.dumps(document))
    pods = eventually(lambda: control_plane.get("pods", "-n", namespace)["items"], count=2)
    assert {pod["metadata"]["ownerReferences"][0]["kind"] for pod in pods} == {"ReplicaSet"}
    slices = eventually(lambda: control_plane.get("endpointslices", "-n", namespace)["items"], count=1)
    assert slices[0]["metadata"]["labels"]["kubernetes.io/service-name"] == "web"


def test_deleting_an_owner_deletes_what_it_owns(control_plane: ControlPlane, namespace: str) -> None:
    control_plane.kubectl("apply", "-n", namespace, "-f", "-", input=json.dumps(DEPLOYMENT))
    eventually(lambda: control_plane.get("pods", "-n", namespace)["items"], count=2)
    control_plane.kubectl("delete", "deployment", "web", "-n", namespace)
    eventually(lambda: control_plane.get("pods", "-n", namespace)["items"], count=0)


def test_restart_keeps_data_and_address_and_controllers_go_on(control_plane: ControlPlane, namespace: str) -> None:
    control_plane.kubectl("create", "configmap", "kept", "-n", namespace)
    url = control_plane.url
    control_plane.restart_apiserver()
    assert control_plane.url == url
    assert control_plane.get("configmap", "kept", "-n", namespace)["metadata"]["name"] == "kept"
    control_plane.kubectl("apply", "-n", namespace, "-f", "-", input=json.dumps(DEPLOYMENT))
    eventually(lambda: control_plane.get("pods", "-n", namespace)["items"], count=2)


def test_users_are_held_to_their_permissions(control_plane: ControlPlane, namespace: str) -> None:
    reader = control_plane.kubeconfig_for("reader", ["readers"])
    control_plane.kubectl("create", "rolebinding", "r", "--clusterrole=view", "--group=readers", "-n", namespace)
    read = ("get", "configmaps", "-n", namespace, "--ignore-not-found", "-o", "name")

    def what_reader_sees() -> list[str]:
        return control_plane.kubectl(*read, kubeconfig=reader, check=False).stdout.split()

    eventually(what_reader_sees, count=1)  # The server's own view of a new binding lags a moment behind.
    refused = control_plane.kubectl("create", "cm", "x", "-n", namespace, kubeconfig=reader, check=False)
    assert 'forbidden: User "reader" cannot create' in refused.stderr


def test_service_account_tokens_are_accepted(control_plane: ControlPlane, namespace: str) -> None:
    token = control_plane.kubeconfig_for_service_account(namespace, "default")
    who = json.loads(control_plane.kubectl("auth", "whoami", "-o", "json", kubeconfig=token).stdout)
    assert who["status"]["userInfo"]["username"] == f"system:serviceaccount:{namespace}:default"


def test_audit_log_tells_who_wrote_what(control_plane: ControlPlane, namespace: str) -> None:
    writer = control_plane.kubeconfig_for("writer", ["system:masters"])
    before = control_plane.audit_offset()
    control_plane.kubectl("create", "configmap", "audited", "-n", namespace, kubeconfig=writer)
    control_plane.kubectl("get", "configmap", "audited", "-n", namespace, kubeconfig=writer)
    mine = [event for event in control_plane.audit_events(since=before) if event.user == "writer"]
    assert [(e.verb, e.resource, e.name) for e in mine if e.is_write] == [("create", "configmaps", "audited")]
    assert ("get", "configmaps", 200) in {(event.verb, event.resource, event.status) for event in mine}
