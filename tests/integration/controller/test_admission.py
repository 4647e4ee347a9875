"""Admission of somebody else's making, quotas, and a namespace that goes away: told, and no storm of writes."""

from __future__ import annotations

import itertools
import time
from pathlib import Path

import pytest

from tests.cluster.control_plane import ControlPlane
from tests.integration.controller.api import Api, Object, eventually
from tests.integration.controller.conftest import Start
from tests.integration.controller.space import AGG, Space, condition
from tests.integration.controller.webhook import webhook

pytestmark = pytest.mark.integration

WATCHED_SECONDS = 10.0


def writes(plane: ControlPlane, user: str, seconds: float = WATCHED_SECONDS) -> int:
    """Writes of a user in the next seconds."""
    since = plane.audit_offset()
    time.sleep(seconds)
    return len([event for event in plane.audit_events(since=since) if event.user == user and event.is_write])


def test_what_a_webhook_changes_in_our_objects_is_accepted(
    plane: ControlPlane, api: Api, space: Space, start: Start, tmp_path: Path
) -> None:
    """Another image, another value of ours, a container of its own, and an annotation that differs each time."""
    numbers = itertools.count()

    def change(obj: Object) -> list[Object]:
        template, containers = "/spec/template", obj["spec"]["template"]["spec"]["containers"]
        sidecar = {
            "op": "add",
            "path": f"{template}/spec/containers/-",
            "value": {"name": "sidecar", "image": "mesh:1"},
        }
        return [
            {"op": "replace", "path": f"{template}/spec/containers/0/image", "value": "mirror.example/image@sha256:1"},
            *([] if len(containers) > 1 else [sidecar]),
            {"op": "add", "path": f"{template}/spec/tolerations", "value": [{"operator": "Exists"}]},
            {"op": "add", "path": "/metadata/annotations", "value": {"seen": str(next(numbers))}},
        ]

    resources = {"deployments": "apps"}
    with webhook(plane, api, tmp_path, namespace=space.namespace, resources=resources, review=change):
        start(user="mutated", namespaces=(space.namespace,))
        space.create(**AGG)
        space.wait_applied()
        time.sleep(2)
        assert writes(plane, "mutated") == 0
        space.edit(limits={"maxNewTokens": 97})
        space.wait_applied()
        (workers,) = space.workers("agg")
        assert workers["spec"]["template"]["spec"]["containers"][0]["image"] == "mirror.example/image@sha256:1"


def test_what_a_webhook_refuses_is_told_in_its_words(
    plane: ControlPlane, api: Api, space: Space, start: Start, tmp_path: Path
) -> None:
    operator = start(user="refused", namespaces=(space.namespace,))
    resources = {"services": ""}
    refusal = "services need the label team"
    with webhook(plane, api, tmp_path, namespace=space.namespace, resources=resources, review=lambda _: refusal):
        space.create(**AGG)
        status = space.wait_condition("Rendered", "False")
        assert refusal in condition({"status": status}, "Rendered")["message"]
        time.sleep(5)
        assert writes(plane, "refused") < 10
    space.wait_applied(timeout=90)
    assert operator.handle.poll() is None


def test_a_quota_is_told_and_its_end_is_found_out(plane: ControlPlane, api: Api, space: Space, start: Start) -> None:
    path = f"/api/v1/namespaces/{space.namespace}/resourcequotas"
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q"}}
    api.request("POST", path, {**quota, "spec": {"hard": {"count/services": "0"}}})
    eventually(lambda: api.request("GET", f"{path}/q").get("status", {}).get("hard"))
    start(user="poor", namespaces=(space.namespace,))
    space.create(**AGG)
    status = space.wait_condition("Rendered", "False", "QuotaExceeded")
    assert "count/services" in condition({"status": status}, "Rendered")["message"]
    api.request("DELETE", f"{path}/q")
    space.wait_applied(timeout=90)


def test_a_namespace_that_goes_away_is_left_in_peace(plane: ControlPlane, api: Api, space: Space, start: Start) -> None:
    operator = start(user="leaving", namespaces=(space.namespace,))
    for number in range(3):
        space.create(f"chat-{number}", **AGG)
    for number in range(3):
        space.wait_applied(f"chat-{number}")
    since = plane.audit_offset()
    plane.kubectl("delete", "namespace", space.namespace, "--timeout=120s")
    mine = [event for event in plane.audit_events(since=since) if event.user == "leaving" and event.is_write]
    # What is missing first is tried once more, all of it at a time, and is then told to be impossible.
    assert len(mine) < 3 * 20, "it does not fight the end"
    assert operator.handle.poll() is None
    assert "Traceback" not in operator.log.read_text()
