"""The operator with the real controller of LeaderWorkerSets, webhooks included; pods are told of by a played node.

Runs where LWS_SOURCE names a checkout of kubernetes-sigs/lws (0.9.0 or newer, last done with v0.10.0) and there is a Go
toolchain to build it: no registry has its program.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tandem.kube.resources import Resource
from tests.cluster.binaries import Binaries
from tests.cluster.control_plane import ControlPlane, running_control_plane
from tests.cluster.pki import Authority
from tests.cluster.ports import free_port
from tests.integration.controller.api import Api, Object, eventually
from tests.integration.controller.conftest import USER, install_crds
from tests.integration.controller.node import ToldNode
from tests.integration.controller.process import OperatorProcess
from tests.integration.controller.sets import with_address
from tests.integration.controller.space import OTHER_MODEL, Space
from tests.integration.controller.test_leaderworkersets import a_space, sets

pytestmark = pytest.mark.integration

SLICES = Resource("EndpointSlice", "discovery.k8s.io/v1", "endpointslices")
NO_GPUS: Object = {"resources": {"limits": {"nvidia.com/gpu": "0"}}}
SPEC: Object = {
    "mode": "disagg",
    "backend": "vllm",
    "parameters": {"tensorParallelSize": 16},
    "roles": {"prefill": {"replicas": 1, **NO_GPUS}, "decode": {"replicas": 2, **NO_GPUS}},
}


@pytest.fixture(scope="module")
def source() -> Path:
    if not os.environ.get("LWS_SOURCE"):
        pytest.skip("LWS_SOURCE names no checkout of kubernetes-sigs/lws")
    if shutil.which("go") is None:
        pytest.skip("there is no go to build the controller of LeaderWorkerSets")
    return Path(os.environ["LWS_SOURCE"])


@pytest.fixture(scope="module")
def plane(source: Path, cluster_binaries: Binaries, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A control plane with the controller, as its project deploys it but for its pod and Service."""
    folder = tmp_path_factory.mktemp("lws")
    program = folder / "manager"
    subprocess.run(["go", "build", "-o", str(program), "./cmd"], cwd=source, check=True)
    with running_control_plane(cluster_binaries) as plane:
        install_crds(plane)
        for crd in sorted((source / "config/crd/bases").glob("*.yaml")):
            plane.kubectl("apply", "--server-side", "-f", str(crd))
        plane.kubectl("create", "namespace", "lws-system")
        authority, port = Authority(), free_port()
        authority.server("webhooks", ["127.0.0.1"]).write(folder, "tls")
        config = folder / "config.yaml"
        config.write_text(json.dumps(configuration(folder, port)))
        environment = os.environ | {"KUBECONFIG": str(plane.kubeconfig), "POD_NAMESPACE": "lws-system"}
        with (folder / "manager.log").open("wb") as log:
            command = [str(program), f"--config={config}"]
            manager = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            eventually(lambda: answers(port), timeout=60, why="the webhooks do not answer")
            hooks = webhooks(source, port, authority.pair.certificate)
            plane.kubectl("apply", "-f", "-", input=json.dumps({"apiVersion": "v1", "kind": "List", "items": hooks}))
            yield plane
        finally:
            manager.terminate()
            manager.wait(timeout=30)


def configuration(folder: Path, port: int) -> Object:
    return {
        "apiVersion": "config.lws.x-k8s.io/v1alpha1",
        "kind": "Configuration",
        "leaderElection": {"leaderElect": False},
        "internalCertManagement": {"enable": False},
        "webhook": {"host": "127.0.0.1", "port": port, "certDir": str(folder)},
        "metrics": {"bindAddress": "0"},
        "health": {"healthProbeBindAddress": "0"},
    }


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def webhooks(source: Path, port: int, authority: bytes) -> list[Object]:
    """Its webhooks for sets and pods, at an address instead of a Service."""
    found = [item for item in yaml.safe_load_all((source / "config/webhook/manifests.yaml").read_text()) if item]
    for item in found:
        item["webhooks"] = [hook for hook in item["webhooks"] if "disaggregatedset" not in hook["name"]]
        for hook in item["webhooks"]:
            url = f"https://127.0.0.1:{port}{hook['clientConfig']['service']['path']}"
            hook["clientConfig"] = {"url": url, "caBundle": base64.b64encode(authority).decode()}
    return found


@pytest.fixture(scope="module")
def operator(plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OperatorProcess]:
    log = tmp_path_factory.mktemp("operator") / "operator.log"
    process = OperatorProcess(plane.kubeconfig_for(USER, ["system:masters"]), log).start()
    yield process
    assert process.stop() == 0


@pytest.fixture
def space(plane: ControlPlane, operator: OperatorProcess) -> Iterator[Space]:
    yield from a_space(plane)


@pytest.fixture
def node(plane: ControlPlane) -> Iterator[ToldNode]:
    with ToldNode(Api(plane.kubeconfig), with_address, linger=1.0) as told:
        yield told


def reached(space: Space, role: str) -> list[str]:
    """The pods of a role that the router sends requests to."""
    found = space.api.list(SLICES, space.namespace, f"tandem.dev/role={role}")
    entries = [entry for item in found for entry in item["endpoints"] or ()]
    return sorted(entry["targetRef"]["name"] for entry in entries if entry["conditions"].get("ready"))


def settled(space: Space) -> Object:
    space.wait_condition("Ready", "True", timeout=120)
    status = space.wait_condition("Progressing", "False", "Settled", timeout=120)
    wanted = status["roles"]["decode"]["desired"]
    eventually(lambda: reached(space, "decode"), lambda names: len(names) == wanted)
    return status


class Fewest:
    """The fewest decode workers that were reached while the context lasted."""

    def __init__(self, space: Space) -> None:
        self._space = space
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.count = len(reached(space, "decode"))

    def __enter__(self) -> Fewest:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(0.03):
            self.count = min(self.count, len(reached(self._space, "decode")))


def test_workers_of_two_nodes_come_up_and_rest(plane: ControlPlane, space: Space, node: ToldNode) -> None:
    space.create(**SPEC)
    status = settled(space)
    assert status["roles"]["decode"] == {"desired": 2, "updated": 2, "ready": 2}
    name = f"chat-decode-{status['revision']}-nodes"
    assert reached(space, "decode") == [f"{name}-0", f"{name}-1"]
    assert len(space.pods("tandem.dev/role=decode")) == 4
    eventually(lambda: space.pods(status["selector"]), lambda found: len(found) == 2)
    since = plane.audit_offset()
    threading.Event().wait(5.0)
    assert [event for event in plane.audit_events(since=since) if event.user == USER and event.is_write] == []


def test_an_edit_in_place_costs_no_worker(space: Space, node: ToldNode) -> None:
    space.create(**SPEC)
    before = settled(space)
    with Fewest(space) as fewest:
        space.edit(roles={"decode": {"resources": {"requests": {"cpu": "750m"}}}})
        after = settled(space)
    assert after["revision"] == before["revision"]
    assert fewest.count == 2


def test_a_new_revision_costs_no_worker(space: Space, node: ToldNode) -> None:
    space.create(**SPEC)
    before = settled(space)
    with Fewest(space) as fewest:
        space.edit(model=OTHER_MODEL)
        after = settled(space)
    assert after["revision"] != before["revision"]
    assert fewest.count == 2
    eventually(lambda: sets(space, "decode"), lambda found: len(found) == 1)


def test_workers_that_come_to_fit_on_a_node_take_over_without_a_gap(space: Space, node: ToldNode) -> None:
    space.create(**SPEC)
    settled(space)
    with Fewest(space) as fewest:
        space.edit(parameters={"tensorParallelSize": 8})
        settled(space)
    assert fewest.count == 2
    eventually(lambda: sets(space, "decode"), lambda found: not found)


def test_why_a_worker_was_replaced_is_told_until_it_is_back(space: Space, node: ToldNode) -> None:
    space.create(**SPEC)
    name = f"chat-decode-{settled(space)['revision']}-nodes-0"
    failing = {pod["metadata"]["name"]: pod["metadata"]["uid"] for pod in space.pods("tandem.dev/role=decode")}
    healed = threading.Event()

    def behave(pod: Object) -> Object:
        told, metadata = with_address(pod), pod["metadata"]
        if not metadata["name"].startswith(name) or healed.is_set():
            return told
        (status,) = told["containerStatuses"]
        if metadata["uid"] == failing[f"{name}-1"]:
            ended = {"exitCode": 9, "reason": "Error", "message": "the other node has gone"}
            status |= {"restartCount": 1, "lastState": {"terminated": ended}}
        told["conditions"][-1]["status"] = "False"
        return {**told, "containerStatuses": [{**status, "ready": False, "started": False}]}

    node.behave = behave
    space.wait_condition("Ready", "False", "ContainerFailed")
    gone = failing[f"{name}-1"]
    eventually(lambda: [pod["metadata"]["uid"] for pod in space.pods("tandem.dev/role")], lambda uids: gone not in uids)
    cause = space.status()["rootCause"]
    assert (cause["pod"], cause["exitCode"], cause["message"]) == (f"{name}-1", 9, "the other node has gone")
    healed.set()
    assert "rootCause" not in settled(space)
