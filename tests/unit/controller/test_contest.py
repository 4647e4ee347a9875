"""Who keeps changing an object, read from the API server's records."""

from __future__ import annotations

from typing import Any

import pytest

from tandem.controller.contest import Contest, owners
from tandem.kube.cache import Ref

CONTAINER = {"f:containers": {'k:{"name":"router"}': {".": {}, "f:image": {}}}}
PORT = {"f:ports": {'k:{"port":8000,"protocol":"TCP"}': {"f:targetPort": {}}}}


def entry(manager: str, fields: dict[str, Any], *, time: str = "2026-11-21T12:00:00Z", **more: Any) -> dict[str, Any]:
    return {"manager": manager, "operation": "Update", "time": time, "fieldsV1": fields, **more}


OURS = entry("tandem", {"f:spec": {"f:template": {"f:spec": {"f:containers": {".": {}}}}, "f:replicas": {}}})


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"f:spec": {"f:template": {"f:spec": CONTAINER}}}, "spec.template.spec.containers[router].image"),
        ({"f:spec": PORT}, "spec.ports[8000/TCP].targetPort"),
        ({"f:spec": {"f:replicas": {}}}, "spec.replicas"),
        ({"f:metadata": {"f:labels": {"f:app.kubernetes.io/name": {}}}}, "metadata.labels.app.kubernetes.io/name"),
        # Written as one whole.
        ({"f:spec": {"f:selector": {}}}, "spec.selector.app"),
        # A part of what differs.
        ({"f:data": {"f:config.json": {}}}, "data"),
    ],
)
def test_whoever_owns_the_field_is_named(fields: dict[str, Any], path: str) -> None:
    bystander = entry("kube-controller-manager", {"f:metadata": {"f:annotations": {"f:revision": {}}}})
    assert owners([OURS, bystander, entry("sidecar-injector", fields)], [path]) == ("sidecar-injector",)


def test_an_autoscaler_is_named() -> None:
    scaled = entry("kube-controller-manager", {"f:spec": {"f:replicas": {}}}, subresource="scale")
    assert owners([OURS, scaled], ["spec.replicas"]) == ("kube-controller-manager",)


def test_our_own_name_is_told_when_nobody_else_has_the_field() -> None:
    assert owners([OURS], ["spec.replicas"]) == ("tandem",)


def test_whoever_came_last_is_named_when_a_field_was_removed() -> None:
    early = entry("helm", {"f:spec": {"f:x": {}}}, time="2026-11-21T11:00:00Z")
    late = entry("kubectl-edit", {"f:spec": {"f:y": {}}}, time="2026-11-21T11:30:00Z")
    status = entry("kube-controller-manager", {"f:status": {}}, time="2026-11-21T12:30:00Z", subresource="status")
    assert owners([early, late, status], ["spec.ports"]) == ("kubectl-edit",)
    assert owners([status], ["spec.ports"]) == ()


@pytest.mark.parametrize(
    ("managers", "told"),
    [
        ((), "Service ns/chat: somebody keeps changing spec.ports"),
        (("tandem",), "a second Tandem operator that serves this namespace"),
        (("a", "b"), "field manager a, b keeps changing spec.ports"),
    ],
)
def test_it_is_told_in_plain_words(managers: tuple[str, ...], told: str) -> None:
    assert told in str(Contest(Ref("Service", "ns", "chat"), ("spec.ports",), managers))
