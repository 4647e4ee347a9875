"""What the API server makes of our objects is no difference; what somebody changed is."""

from __future__ import annotations

from typing import Any

import pytest

from tandem.controller.compare import differences


def pod(**container: Any) -> dict[str, Any]:
    return {"spec": {"template": {"spec": {"containers": [{"name": "server", **container}]}}}}


SAME: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "fields that others add": ({"spec": {"a": 1}}, {"spec": {"a": 1, "b": 2}, "status": {}}),
    "labels that others add": (
        {"metadata": {"labels": {"a": "1"}}},
        {"metadata": {"labels": {"a": "1", "team": "x"}, "uid": "u"}},
    ),
    "quantities written otherwise": (
        pod(resources={"requests": {"cpu": "1000m", "memory": "1024Mi", "nvidia.com/gpu": "2"}}),
        pod(resources={"requests": {"cpu": "1", "memory": "1Gi", "nvidia.com/gpu": 2}}),
    ),
    "a size limit written otherwise": (
        {"volumes": [{"name": "shm", "emptyDir": {"sizeLimit": "2048Mi"}}]},
        {"volumes": [{"name": "shm", "emptyDir": {"sizeLimit": "2Gi"}}]},
    ),
    "empty values that are not stored": (
        {"spec": {"egress": [], "annotations": {}, "note": "", "gone": None}},
        {"spec": {}},
    ),
    "an empty map inside an empty map": ({"spec": {"securityContext": {"seLinux": {}}}}, {"spec": {}}),
    "false where only true is stored": (pod(tty=False), pod()),
    "a sidecar that a mesh put in": (
        pod(image="a"),
        {"spec": {"template": {"spec": {"containers": [{"name": "mesh"}, {"name": "server", "image": "a"}]}}}},
    ),
    "variables that others add, and the order of ours": (
        pod(env=[{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]),
        pod(env=[{"name": "X", "value": "9"}, {"name": "B", "value": "2"}, {"name": "A", "value": "1"}]),
    ),
    "the default protocol of a port": (
        pod(ports=[{"name": "http", "containerPort": 8000}]),
        pod(ports=[{"name": "http", "containerPort": 8000, "protocol": "TCP"}]),
    ),
    "a node port that the API server gave": (
        {"spec": {"ports": [{"name": "http", "port": 8000, "targetPort": "http", "protocol": "TCP"}]}},
        {"spec": {"ports": [{"name": "http", "port": 8000, "targetPort": "http", "protocol": "TCP", "nodePort": 3}]}},
    ),
    "defaults inside the rules of a network policy": (
        {"spec": {"ingress": [{"ports": [{"port": 8000}]}, {}]}},
        {"spec": {"ingress": [{"ports": [{"port": 8000, "protocol": "TCP"}]}, {}]}},
    ),
    "defaults of a probe": (
        pod(readinessProbe={"httpGet": {"path": "/health", "port": "http"}}),
        pod(readinessProbe={"httpGet": {"path": "/health", "port": "http", "scheme": "HTTP"}, "timeoutSeconds": 1}),
    ),
    "a second owner": (
        {"metadata": {"ownerReferences": [{"uid": "1", "controller": True}]}},
        {"metadata": {"ownerReferences": [{"uid": "2"}, {"uid": "1", "controller": True}]}},
    ),
}

DIFFERENT: dict[str, tuple[dict[str, Any], dict[str, Any], tuple[str, ...]]] = {
    "a changed value": ({"spec": {"replicas": 2}}, {"spec": {"replicas": 9}}, ("spec.replicas",)),
    "a removed field": ({"spec": {"a": "1"}}, {"spec": {}}, ("spec.a",)),
    "a removed false that means something": (
        {"automountServiceAccountToken": False},
        {},
        ("automountServiceAccountToken",),
    ),
    "zero is not false": ({"replicas": 0}, {"replicas": False}, ("replicas",)),
    "zero replicas are not stored as nothing": ({"spec": {"replicas": 0}}, {"spec": {}}, ("spec.replicas",)),
    "an added argument": (pod(args=["a"]), pod(args=["a", "b"]), ("spec.template.spec.containers[server].args",)),
    "a changed argument": (
        pod(args=["a", "b"]),
        pod(args=["a", "c"]),
        ("spec.template.spec.containers[server].args[1]",),
    ),
    "a removed container": (
        pod(image="a"),
        {"spec": {"template": {"spec": {"containers": [{"name": "other"}]}}}},
        ("spec.template.spec.containers[server]",),
    ),
    "a changed variable": (
        pod(env=[{"name": "A", "value": "1"}]),
        pod(env=[{"name": "A", "value": "2"}]),
        ("spec.template.spec.containers[server].env[A].value",),
    ),
    "another quantity": (
        pod(resources={"limits": {"memory": "1Gi"}}),
        pod(resources={"limits": {"memory": "1G"}}),
        ("spec.template.spec.containers[server].resources.limits.memory",),
    ),
    "a removed limit": (
        pod(resources={"limits": {"memory": "1Gi", "cpu": "1"}}),
        pod(resources={"limits": {"cpu": "1"}}),
        ("spec.template.spec.containers[server].resources.limits.memory",),
    ),
    "a selector that others extended": (
        {"spec": {"rules": [{"verbs": ["get"]}]}},
        {"spec": {"rules": [{"verbs": ["get", "delete"]}]}},
        ("spec.rules[0].verbs",),
    ),
    "a removed label": (
        {"metadata": {"labels": {"a": "1"}}},
        {"metadata": {}},
        ("metadata.labels",),
    ),
    "a name that is no text": (
        pod(env=[{"name": {"a": "b"}}]),
        pod(env=[{"name": "A"}]),
        ("spec.template.spec.containers[server].env[0].name",),
    ),
    "text is not a number": ({"port": "8000"}, {"port": 8000}, ("port",)),
}


@pytest.mark.parametrize("case", SAME)
def test_no_difference(case: str) -> None:
    wanted, observed = SAME[case]
    assert differences(wanted, observed) == ()


@pytest.mark.parametrize("case", DIFFERENT)
def test_difference(case: str) -> None:
    wanted, observed, paths = DIFFERENT[case]
    assert differences(wanted, observed) == paths


@pytest.mark.parametrize("case", SAME)
def test_an_object_says_what_it_says_itself(case: str) -> None:
    for document in SAME[case]:
        assert differences(document, document) == ()
