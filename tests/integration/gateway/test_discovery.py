"""The router's view of workers against a real API server and its real EndpointSlice controller."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tandem.gateway.discovery.follow import SliceFollower
from tandem.gateway.discovery.kubernetes import KubernetesSlices
from tandem.gateway.fleet import Fleet, FleetView, Role
from tests.cluster.control_plane import ControlPlane

pytestmark = pytest.mark.integration

PATIENCE = 30.0


class Following:
    """A view that follows, and a way to wait for what it should show."""

    def __init__(self, view: FleetView) -> None:
        self.view = view
        self.failures = 0
        self._changed = asyncio.Event()
        view.subscribe(lambda _before, _after: self._changed.set())

    def failed(self) -> None:
        """A read failed."""
        self.failures += 1
        self._changed.set()

    async def until(self, what: Callable[[FleetView], bool]) -> Fleet:
        """The fleet, as soon as `what` holds."""
        async with asyncio.timeout(PATIENCE):
            while not what(self.view):
                self._changed.clear()
                await self._changed.wait()
        return self.view.fleet


@asynccontextmanager
async def following(kubeconfig: Path, namespace: str, deployment: str = "qwen") -> AsyncIterator[Following]:
    """Follows a deployment's slices as the router does."""
    view = FleetView()
    watched = Following(view)
    api = KubernetesSlices(namespace=namespace, deployment=deployment, kubeconfig=kubeconfig)
    follower = SliceFollower(api, view, on_failure=watched.failed, sleep=asyncio.sleep, draw=lambda: 0.0)
    task = asyncio.create_task(follower.run())
    try:
        yield watched
    finally:
        task.cancel()
        await asyncio.wait((task,))


@pytest.fixture
def router_kubeconfig(control_plane: ControlPlane, namespace: str) -> Path:
    """A ServiceAccount with the rights that a router's Role has, and no others."""
    control_plane.kubectl("create", "serviceaccount", "qwen-router", "-n", namespace)
    rights = ("--verb=get,list,watch", "--resource=endpointslices.discovery.k8s.io")
    control_plane.kubectl("create", "role", "qwen-router", *rights, "-n", namespace)
    account = f"--serviceaccount={namespace}:qwen-router"
    control_plane.kubectl("create", "rolebinding", "qwen-router", "--role=qwen-router", account, "-n", namespace)
    return control_plane.kubeconfig_for_service_account(namespace, "qwen-router")


def labels(role: str, revision: str = "r1", deployment: str = "qwen") -> dict[str, str]:
    return {"tandem.dev/deployment": deployment, "tandem.dev/role": role, "tandem.dev/revision": revision}


def apply(plane: ControlPlane, namespace: str, *objects: dict[str, Any]) -> None:
    content = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
    plane.kubectl("apply", "-n", namespace, "-f", "-", input=content)


def a_slice(name: str, made_of: dict[str, str], *pods: tuple[str, str, bool]) -> dict[str, Any]:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": name, "labels": made_of},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8000, "protocol": "TCP"}],
        "endpoints": [
            {"addresses": [ip], "conditions": {"ready": ready}, "targetRef": {"kind": "Pod", "name": pod}}
            for pod, ip, ready in pods
        ],
    }


def names(view: FleetView) -> list[str]:
    return sorted(endpoint.name for endpoint in view.fleet.endpoints)


async def test_the_fleet_follows_slices_with_the_rights_of_the_routers_role(
    control_plane: ControlPlane, namespace: str, router_kubeconfig: Path
) -> None:
    apply(
        control_plane,
        namespace,
        a_slice("p", labels("prefill"), ("p-0", "10.0.0.1", True)),
        a_slice("other", labels("prefill", deployment="llama"), ("x-0", "10.0.0.9", True)),
        a_slice("router", {"tandem.dev/deployment": "qwen"}, ("r-0", "10.0.0.8", True)),
    )
    async with following(router_kubeconfig, namespace) as watched:
        fleet = await watched.until(lambda view: view.synced)
        assert [(e.name, e.address, e.port, e.role, e.revision, e.ready) for e in fleet.endpoints] == [
            ("p-0", "10.0.0.1", 8000, Role.PREFILL, "r1", True)
        ]
        apply(control_plane, namespace, a_slice("d", labels("decode"), ("d-0", "10.0.0.2", False)))
        fleet = await watched.until(lambda view: len(view.fleet.endpoints) == 2)
        assert fleet.ready(Role.DECODE) == ()
        apply(control_plane, namespace, a_slice("d", labels("decode"), ("d-0", "10.0.0.2", True)))
        await watched.until(lambda view: len(view.fleet.ready(Role.DECODE)) == 1)
        control_plane.kubectl("delete", "endpointslice", "p", "-n", namespace)
        await watched.until(lambda view: names(view) == ["d-0"])
        assert watched.failures == 0


async def test_the_fleet_outlives_an_api_server_and_follows_on_when_it_is_back(
    control_plane: ControlPlane, namespace: str, router_kubeconfig: Path
) -> None:
    apply(control_plane, namespace, a_slice("d", labels("decode"), ("d-0", "10.0.0.2", True)))
    async with following(router_kubeconfig, namespace) as watched:
        before = await watched.until(lambda view: names(view) == ["d-0"])
        await asyncio.to_thread(control_plane.stop_apiserver)
        await watched.until(lambda view: view.trouble is not None)
        assert watched.view.synced
        assert watched.view.fleet is before
        await asyncio.to_thread(control_plane.start_apiserver)
        apply(control_plane, namespace, a_slice("e", labels("decode"), ("d-1", "10.0.0.3", True)))
        await watched.until(lambda view: names(view) == ["d-0", "d-1"])
        assert watched.view.trouble is None


async def test_changes_made_while_nobody_watched_are_caught_up(
    control_plane: ControlPlane, namespace: str, router_kubeconfig: Path
) -> None:
    for i in (1, 2):
        apply(control_plane, namespace, a_slice(f"d-{i}", labels("decode"), (f"d-{i}", f"10.0.0.{i}", True)))
    async with following(router_kubeconfig, namespace) as watched:
        await watched.until(lambda view: len(names(view)) == 2)
        await asyncio.to_thread(control_plane.stop_apiserver)
        await watched.until(lambda view: view.trouble is not None)
        # Restarted and changed before the follower's next try has had an answer, as far as that can be arranged.
        await asyncio.to_thread(control_plane.start_apiserver)
        control_plane.kubectl("delete", "endpointslice", "d-1", "-n", namespace)
        await watched.until(lambda view: names(view) == ["d-2"])


async def test_missing_rights_are_named_and_no_list_is_made_up(
    control_plane: ControlPlane, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, logger="tandem.gateway")
    kubeconfig = control_plane.kubeconfig_for_service_account(namespace, "default")
    async with following(kubeconfig, namespace) as watched:
        await watched.until(lambda view: "forbidden" in (view.trouble or ""))
        assert not watched.view.synced
        assert "endpointslices.discovery.k8s.io" in watched.view.trouble
    assert any("cannot be followed" in record.getMessage() for record in caplog.records)


async def test_a_missing_kubeconfig_is_a_trouble_and_not_an_end(tmp_path: Path) -> None:
    async with following(tmp_path / "nowhere", "ns") as watched:
        await watched.until(lambda view: watched.failures >= 2)
        assert "nowhere" in watched.view.trouble


@pytest.fixture
def node(control_plane: ControlPlane) -> Any:
    """A node in name only: pods bound to it never run, and their status is what the test says."""
    name = f"paper-{secrets.token_hex(3)}"
    apply(control_plane, "default", {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}})
    yield name
    control_plane.kubectl("delete", "node", name, "--wait=false", check=False)


def set_ready(plane: ControlPlane, namespace: str, pod: str, ip: str, *, ready: bool) -> None:
    condition = {"type": "Ready", "status": "True" if ready else "False"}
    status = {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "conditions": [condition]}
    plane.kubectl(
        "patch",
        "pod",
        pod,
        "-n",
        namespace,
        "--subresource=status",
        "--type=merge",
        "-p",
        json.dumps({"status": status}),
    )


async def test_slices_made_by_the_controller_tell_role_revision_readiness_and_termination(
    control_plane: ControlPlane, namespace: str, router_kubeconfig: Path, node: str
) -> None:
    made_of = labels("decode", "rev7")
    ports = [{"name": "http", "port": 8000, "targetPort": "http"}]
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "qwen-decode-rev7", "labels": made_of},
        "spec": {"clusterIP": "None", "selector": made_of, "ports": ports},
    }
    container = {"name": "server", "image": "none", "ports": [{"name": "http", "containerPort": 8000}]}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "qwen-decode-rev7-0", "labels": made_of},
        "spec": {"nodeName": node, "containers": [container], "automountServiceAccountToken": False},
    }
    async with following(router_kubeconfig, namespace) as watched:
        apply(control_plane, namespace, service, pod)
        set_ready(control_plane, namespace, "qwen-decode-rev7-0", "10.244.7.7", ready=False)
        [endpoint] = (await watched.until(lambda view: bool(view.fleet.endpoints))).endpoints
        assert (endpoint.name, endpoint.address, endpoint.port) == ("qwen-decode-rev7-0", "10.244.7.7", 8000)
        assert (endpoint.role, endpoint.revision) == (Role.DECODE, "rev7")
        set_ready(control_plane, namespace, "qwen-decode-rev7-0", "10.244.7.7", ready=True)
        await watched.until(lambda view: len(view.fleet.ready(Role.DECODE)) == 1)
        control_plane.kubectl("delete", "pod", "qwen-decode-rev7-0", "-n", namespace, "--wait=false")
        await watched.until(lambda view: not view.fleet.ready(Role.DECODE))
