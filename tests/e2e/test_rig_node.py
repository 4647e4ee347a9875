"""The rig's node is a real one: pods run from images made here, Services and names lead to them, limits are held."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import urllib.request
from collections.abc import Iterable
from functools import reduce
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.images import ImageStore
from tests.cluster.machine import run
from tests.cluster.node import NodeCluster

pytestmark = pytest.mark.e2e

TAG = "localhost/rig-probe:1"
TIMEOUT = "--timeout=60s"


@pytest.fixture(scope="module", autouse=True)
def _own_node(node_cluster: object) -> None:
    if not isinstance(node_cluster, NodeCluster):
        pytest.skip("these tests are about the rig's own node; kind serves here")


@pytest.fixture(scope="module")
def probe_image(node_cluster: NodeCluster) -> str:
    context = Path(__file__).parent / "rig_probe"
    return node_cluster.build_image(context=context, tag=TAG, build_args={"BASE": node_cluster.base_image()})


def pod(name: str, arguments: list[str], **container: Any) -> dict[str, Any]:
    """A pod under the *restricted* Pod Security Standard that runs the probe."""
    base = {
        "name": "probe",
        "image": TAG,
        "imagePullPolicy": "Never",
        "args": arguments,
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 0,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 65532,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [{**base, **container}],
        },
    }


def service(name: str, **spec: Any) -> dict[str, Any]:
    ports = [{"port": 80, "targetPort": 8080}]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"selector": {"app": name}, "ports": ports, **spec},
    }


@pytest.fixture
def server(node_cluster: NodeCluster, node_namespace: str, probe_image: str) -> dict[str, Any]:
    """A Ready pod `web` with a Service `web` and a headless Service `web-pods`; gives the pod."""
    probe = {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1}
    headless = service("web-pods", clusterIP="None", selector={"app": "web"})
    for document in (pod("web", ["serve"], readinessProbe=probe), service("web"), headless):
        node_cluster.kubectl("apply", "-n", node_namespace, "-f", "-", input=json.dumps(document))
    node_cluster.kubectl("wait", "--for=condition=Ready", "pod/web", "-n", node_namespace, TIMEOUT)
    return dict(node_cluster.get("pod", "web", "-n", node_namespace))


def run_to_end(cluster: NodeCluster, namespace: str, document: dict[str, Any], *, phase: str) -> str:
    """Runs a pod until it is in that phase and returns its log."""
    name = document["metadata"]["name"]
    cluster.kubectl("apply", "-n", namespace, "-f", "-", input=json.dumps(document))
    condition = f"--for=jsonpath={{.status.phase}}={phase}"
    waited = cluster.kubectl("wait", condition, f"pod/{name}", "-n", namespace, TIMEOUT, check=False)
    log = cluster.kubectl("logs", name, "-n", namespace, check=False).stdout.strip()
    assert waited.returncode == 0, f"{waited.stderr}\n{log}"
    return log


def test_pod_gets_ready_and_answers_this_computer(server: dict[str, Any]) -> None:
    assert server["status"]["podIP"].startswith("10.244.0.")
    with urllib.request.urlopen(f"http://{server['status']['podIP']}:8080/", timeout=10) as answer:
        assert answer.read() == b"web\n"


@pytest.mark.parametrize("name", ["web", "web.{namespace}.svc.cluster.local", "web-pods:8080"])
def test_names_of_services_lead_from_another_pod_to_it(
    node_cluster: NodeCluster, node_namespace: str, server: dict[str, Any], name: str
) -> None:
    url = f"http://{name.format(namespace=node_namespace)}/"
    assert run_to_end(node_cluster, node_namespace, pod("client", ["fetch", url]), phase="Succeeded") == "web"


def test_service_address_leads_to_it_from_a_pod_and_from_this_computer(
    node_cluster: NodeCluster, node_namespace: str, server: dict[str, Any]
) -> None:
    url = f"http://{node_cluster.get('service', 'web', '-n', node_namespace)['spec']['clusterIP']}/"
    assert run_to_end(node_cluster, node_namespace, pod("client", ["fetch", url]), phase="Succeeded") == "web"
    with urllib.request.urlopen(url, timeout=10) as answer:
        assert answer.read() == b"web\n"


def test_commands_run_in_pods(node_cluster: NodeCluster, node_namespace: str, server: dict[str, Any]) -> None:
    ran = node_cluster.kubectl("exec", "web", "-n", node_namespace, "--", "id", "-u")
    assert ran.stdout == "65532\n"


def test_pod_reaches_the_api_server_through_its_service(
    node_cluster: NodeCluster, node_namespace: str, server: dict[str, Any]
) -> None:
    script = """
import ssl, urllib.request
account = "/var/run/secrets/kubernetes.io/serviceaccount/"
headers = {"Authorization": "Bearer " + open(account + "token").read()}
request = urllib.request.Request("https://kubernetes.default.svc/api", headers=headers)
print(urllib.request.urlopen(request, context=ssl.create_default_context(cafile=account + "ca.crt")).status)
"""
    ran = node_cluster.kubectl("exec", "web", "-n", node_namespace, "--", "python", "-c", script)
    assert ran.stdout == "200\n"


def test_memory_limit_ends_a_pod_with_the_reason(
    node_cluster: NodeCluster, node_namespace: str, probe_image: str
) -> None:
    limits = {"limits": {"memory": "64Mi", "cpu": "1"}}
    run_to_end(node_cluster, node_namespace, pod("greedy", ["eat", "256"], resources=limits), phase="Failed")
    status = node_cluster.get("pod", "greedy", "-n", node_namespace)["status"]["containerStatuses"][0]
    ended = status["state"]["terminated"]
    assert (ended["reason"], ended["exitCode"]) == ("OOMKilled", 137)


def test_image_that_is_not_there_is_reported(node_cluster: NodeCluster, node_namespace: str) -> None:
    document = pod("lost", [], image="localhost/none:1")
    node_cluster.kubectl("apply", "-n", node_namespace, "-f", "-", input=json.dumps(document))
    waiting = "{.status.containerStatuses[0].state.waiting.reason}=ErrImageNeverPull"
    node_cluster.kubectl("wait", f"--for=jsonpath={waiting}", "pod/lost", "-n", node_namespace, TIMEOUT)


def test_image_is_imported_again_only_when_it_changed(
    node_cluster: NodeCluster, probe_image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = Path(shutil.copytree(Path(__file__).parent / "rig_probe", tmp_path / "context"))
    arguments = {"BASE": node_cluster.base_image()}
    tag = "localhost/rig-probe-changing:1"
    node_cluster.build_image(context=context, tag=tag, build_args=arguments)
    imported: list[str] = []
    monkeypatch.setattr(ImageStore, "import_stream", lambda self, stream, *, tag, content: imported.append(tag))
    node_cluster.build_image(context=context, tag=tag, build_args=arguments)
    assert imported == []
    (context / "probe.py").write_text(f"# {tmp_path.name} {os.getpid()}\n")
    node_cluster.build_image(context=context, tag=tag, build_args=arguments)
    assert imported == [tag]


def test_image_that_the_node_has_only_in_part_is_sent_whole(
    node_cluster: NodeCluster, probe_image: str, tmp_path: Path
) -> None:
    tag, changing, ctr = "localhost/rig-probe-partial:1", tmp_path / "changing", node_cluster.images.ctr
    (tmp_path / "Dockerfile").write_text(f"FROM {probe_image}\nCOPY changing /\n")
    changing.write_text(f"first {tmp_path} {os.getpid()}")
    node_cluster.build_image(context=tmp_path, tag=tag)
    *_, own = node_cluster.images.layers(tag)
    top = chain(node_cluster.builder.layers(tag))
    run([*ctr, "snapshots", "remove", top])
    run([*ctr, "content", "delete", own])
    (tmp_path / "Dockerfile").open("a").write("ENV CHANGED=1\n")
    node_cluster.build_image(context=tmp_path, tag=tag)
    assert top in run([*ctr, "snapshots", "list"]).split()


def chain(layers: Iterable[str]) -> str:
    """The name of the snapshot of these (uncompressed) layers, as the OCI image specification defines a chain ID."""
    return reduce(lambda below, layer: f"sha256:{hashlib.sha256(f'{below} {layer}'.encode()).hexdigest()}", layers)


def test_node_leaves_the_settings_of_this_computer_alone(node_cluster: NodeCluster) -> None:
    setting = "/proc/sys/vm/overcommit_memory"
    # kubelet asks for 1, and gets it, inside.
    assert node_cluster.node_command("cat", setting) == "1"
    mounts = Path("/proc/self/mountinfo").read_text()
    assert str(node_cluster.directory.path) not in mounts
