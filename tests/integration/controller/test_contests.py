"""Somebody who never yields: another controller, a second operator, a CRD that drops what is written."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import yaml

from tests.cluster.control_plane import ControlPlane
from tests.integration.controller.api import Api, Object, eventually
from tests.integration.controller.conftest import Start, install_crds
from tests.integration.controller.node import ToldNode
from tests.integration.controller.process import ROOT
from tests.integration.controller.space import AGG, Space, condition

pytestmark = pytest.mark.integration

WATCHED_SECONDS = 15.0
# What two that pace themselves may write in that time: a few at once, then ever more rarely.
MOST_WRITES = 30


@contextmanager
def again_and_again(act: Callable[[], object], *, every: float = 0.1) -> Iterator[None]:
    """Does something in the background for as long as the context lasts."""
    stop = threading.Event()

    def run() -> None:
        while not stop.wait(every):
            act()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(timeout=60)


def contested(space: Space) -> Object:
    """Waits until the deployment says that somebody keeps changing an object; returns the condition."""
    return eventually(
        lambda: condition(space.get(), "Degraded"), lambda found: found.get("reason") == "ObjectContested", timeout=30
    )


def events(space: Space, reason: str) -> list[Object]:
    return [event for event in space.api.list("Event", space.namespace) if event["reason"] == reason]


def test_another_controller_that_keeps_changing_an_object_is_named_in_the_status(
    space: Space, start: Start, node: ToldNode
) -> None:
    start(namespaces=(space.namespace,))
    space.create(**AGG)
    space.wait_condition("Ready", "True")
    path = f"/api/v1/namespaces/{space.namespace}/services/chat?fieldManager=port-changer"
    patch = {"spec": {"ports": [{"name": "http", "port": 8000, "targetPort": 9}]}}

    def change() -> None:
        space.api.request("PATCH", path, patch, "application/strategic-merge-patch+json")

    with again_and_again(change):
        message = contested(space)["message"]
    assert f"Service {space.namespace}/chat: field manager port-changer keeps changing spec.ports" in message
    (event,) = events(space, "ObjectContested")
    assert event["type"] == "Warning"
    assert "port-changer" in event["message"]


def test_two_operators_that_differ_slow_down_and_say_so(
    plane: ControlPlane, space: Space, start: Start, node: ToldNode
) -> None:
    start(user="first", namespaces=(space.namespace,), settings={"router_image": "example/router:1"})
    start(user="second", namespaces=(space.namespace,), settings={"router_image": "example/router:2"})
    space.create(**AGG)
    contested(space)
    told = eventually(lambda: events(space, "ObjectContested") + events(space, "StatusContested"))
    assert any("a second Tandem operator" in event["message"] for event in told)
    since = plane.audit_offset()
    time.sleep(WATCHED_SECONDS)
    theirs = [event for event in plane.audit_events(since=since) if event.user in ("first", "second")]
    assert len([event for event in theirs if event.is_write]) < MOST_WRITES


@pytest.fixture
def older_crd(plane: ControlPlane, api: Api) -> Iterator[None]:
    """A CRD of ModelDeployment from before some fields were there."""
    crd = yaml.safe_load((ROOT / "crds/modeldeployments.yaml").read_text())
    properties = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    del properties["status"]["properties"]["inventory"]
    del properties["spec"]["properties"]["limits"]
    rules = properties["spec"].get("x-kubernetes-validations", [])
    properties["spec"]["x-kubernetes-validations"] = [rule for rule in rules if "limits" not in rule["rule"]]
    path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/modeldeployments.tandem.dev"
    present = api.request("GET", path)
    api.request(
        "PUT", path, {**crd, "metadata": {**crd["metadata"], "resourceVersion": present["metadata"]["resourceVersion"]}}
    )
    yield
    install_crds(plane)


def test_a_crd_that_is_older_than_the_operator_is_told_and_brings_no_storm(
    plane: ControlPlane, older_crd: None, space: Space, start: Start
) -> None:
    operator = start(user="newer", namespaces=(space.namespace,))
    operator.wait_for("CRD of ModelDeployment is older than this operator and drops spec.limits, status.inventory")
    space.create(**AGG)
    space.wait_applied()
    time.sleep(2)
    since = plane.audit_offset()
    time.sleep(WATCHED_SECONDS)
    written = [event for event in plane.audit_events(since=since) if event.user == "newer" and event.is_write]
    assert written == []
    assert "does not keep status.inventory" in operator.log.read_text()
