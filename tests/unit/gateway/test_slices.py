"""From EndpointSlices to workers."""

from __future__ import annotations

import pytest

from tandem.gateway.discovery.slices import SliceCache, fleet_of, problem_of, selector
from tandem.gateway.fleet import Role

LABELS = {"tandem.dev/deployment": "d", "tandem.dev/role": "decode", "tandem.dev/revision": "r1"}
PORTS = [{"name": "metrics", "port": 9000, "protocol": "TCP"}, {"name": "http", "port": 8000, "protocol": "TCP"}]


def pod(name, address="10.0.0.1", **conditions):
    target = {"targetRef": {"kind": "Pod", "name": name}} if name else {}
    return {"addresses": [address], "conditions": conditions, **target}


def item(*endpoints, name="d-decode-r1-x", labels=LABELS, ports=PORTS, family="IPv4"):
    return {
        "metadata": {"name": name, "labels": labels, "resourceVersion": "1"},
        "addressType": family,
        "ports": ports,
        "endpoints": list(endpoints),
    }


@pytest.mark.parametrize(
    ("conditions", "ready"),
    [
        ({}, True),
        ({"ready": True}, True),
        ({"ready": None}, True),
        ({"ready": False}, False),
        ({"ready": True, "serving": True, "terminating": False}, True),
        ({"ready": False, "serving": True, "terminating": True}, False),
        # With publishNotReadyAddresses a terminating pod still says ready.
        ({"ready": True, "serving": True, "terminating": True}, False),
    ],
)
def test_ready_is_what_the_conditions_say(conditions, ready):
    [endpoint] = fleet_of([item(pod("p", **conditions))]).endpoints
    assert endpoint.ready is ready


def test_role_revision_port_and_name_come_from_the_slice():
    [endpoint] = fleet_of([item(pod("pod-1"))]).endpoints
    assert (endpoint.name, endpoint.address, endpoint.port) == ("pod-1", "10.0.0.1", 8000)
    assert (endpoint.role, endpoint.revision) == (Role.DECODE, "r1")
    [nameless] = fleet_of([item(pod(None))]).endpoints
    assert nameless.name == "10.0.0.1"


@pytest.mark.parametrize(
    ("slices", "expected"),
    [
        ([item(pod("a"), name="1"), item(pod("a"), name="2")], [("a", "10.0.0.1", True)]),
        (
            [item(pod("a", "fd00::1"), family="IPv6", name="0"), item(pod("a", "10.0.0.9"), name="1")],
            [("a", "10.0.0.9", True)],
        ),
        ([item(pod("a", "fd00::1"), family="IPv6")], [("a", "fd00::1", True)]),
        ([item(pod("a", ready=False), name="1"), item(pod("a", ready=True), name="2")], [("a", "10.0.0.1", True)]),
        (
            [item(pod("a", ready=True), name="1"), item(pod("a", ready=False, terminating=True), name="2")],
            [("a", "10.0.0.1", False)],
        ),
        ([item(pod("a", "10.0.0.1"), pod("b", "10.0.0.2"))], [("a", "10.0.0.1", True), ("b", "10.0.0.2", True)]),
    ],
)
def test_a_pod_in_several_slices_is_one_worker(slices, expected):
    for order in (slices, slices[::-1]):
        found = fleet_of(order).endpoints
        assert [(endpoint.name, endpoint.address, endpoint.ready) for endpoint in found] == expected


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"labels": {**LABELS, "tandem.dev/role": "router"}}, "tandem.dev/role is 'router'"),
        ({"labels": None}, "tandem.dev/role is None"),
        ({"labels": {"tandem.dev/role": "agg"}}, "tandem.dev/revision is missing"),
        ({"family": "FQDN"}, "'FQDN' is not an IP family"),
        ({"ports": []}, "no port is named 'http'"),
        ({"ports": None}, "no port is named 'http'"),
        ({"ports": [{"name": "grpc", "port": 1}]}, "no port is named 'http'"),
        ({"ports": [{"name": "http", "port": 1, "protocol": "UDP"}]}, "no port is named 'http'"),
    ],
)
def test_a_slice_that_cannot_be_used_is_left_out_and_said_so(changes, words):
    odd = item(pod("a"), **changes)
    assert words in problem_of(odd)
    assert [endpoint.name for endpoint in fleet_of([odd, item(pod("b"), name="good")]).endpoints] == ["b"]


def test_a_single_port_without_name_will_do():
    assert fleet_of([item(pod("a"), ports=[{"port": 7}])]).endpoints[0].port == 7


def test_slices_without_endpoints_are_no_problem():
    empty = {**item(ports=None), "endpoints": None}
    assert problem_of(empty) is None
    assert fleet_of([empty]).endpoints == ()
    assert fleet_of([item({"addresses": [], "conditions": {}})]).endpoints == ()


def test_the_cache_follows_events():
    cache = SliceCache()
    cache.replace([item(pod("a"), name="1"), item(pod("b", "10.0.0.2"), name="2")])
    cache.put(item(pod("a", ready=False), name="1"))
    cache.drop(item(name="2"))
    cache.drop(item(name="never seen"))
    assert [(endpoint.name, endpoint.ready) for endpoint in cache.fleet().endpoints] == [("a", False)]
    cache.put(item(pod("a"), name="1", labels={}))
    assert cache.fleet().endpoints == ()
    assert len(cache.problems()) == 1


def test_only_workers_of_the_deployment_are_asked_for():
    assert selector("d") == "tandem.dev/deployment=d,tandem.dev/role"
