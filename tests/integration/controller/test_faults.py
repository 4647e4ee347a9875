"""What goes wrong around the operator: rights taken away, an API server that refuses, lies, or breaks off."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from aiohttp import web

from tests.cluster.control_plane import ControlPlane
from tests.integration.controller.api import eventually
from tests.integration.controller.conftest import Start
from tests.integration.controller.process import OperatorProcess
from tests.integration.controller.proxy import Fault, Proxy, answers, is_watch
from tests.integration.controller.rights import OPERATOR_RULES, grant, without
from tests.integration.controller.space import AGG, Space

pytestmark = pytest.mark.integration

USER = "limited"


def limited(
    plane: ControlPlane, space: Space, start: Start, *, wait: bool = True, lease: bool = False
) -> OperatorProcess:
    """An operator with the rights of `USER` in the space and no others."""
    fields = {"lease": {"namespace": space.namespace}} if lease else {}
    return start(user=USER, kubeconfig=plane.kubeconfig_for(USER), namespaces=(space.namespace,), wait=wait, **fields)


@pytest.mark.parametrize(
    ("verb", "resource", "told"),
    [
        ("create", "services", 'cannot create resource "services"'),
        ("patch", "deployments", 'cannot patch resource "deployments"'),
        ("create", "roles", 'cannot create resource "roles"'),
        ("list", "endpointslices", "attempting to grant RBAC permissions not currently held"),
    ],
)
def test_a_right_to_write_that_is_missing_is_told_in_the_status_until_it_is_there(
    plane: ControlPlane, space: Space, start: Start, verb: str, resource: str, told: str
) -> None:
    grant(space.api, space.namespace, USER, without(verb, resource))
    operator = limited(plane, space, start)
    space.create(**AGG)
    status = space.wait_condition("Rendered", "False", "Forbidden")
    message = next(item["message"] for item in status["conditions"] if item["type"] == "Rendered")
    assert told in message
    assert operator.http("/readyz")
    grant(space.api, space.namespace, USER, OPERATOR_RULES)
    space.wait_applied(timeout=90)


def test_a_status_that_may_not_be_written_is_logged_and_written_later(
    plane: ControlPlane, space: Space, start: Start
) -> None:
    grant(space.api, space.namespace, USER, without("patch", "modeldeployments/status"))
    operator = limited(plane, space, start)
    space.create(**AGG)
    eventually(lambda: "cannot patch resource" in operator.log_tail())
    assert space.status() == {}
    grant(space.api, space.namespace, USER, OPERATOR_RULES)
    space.wait_applied(timeout=90)


@pytest.mark.parametrize("resource", ["modeldeployments", "configmaps", "pods"])
def test_a_watch_that_is_not_allowed_is_told_and_waited_for(
    plane: ControlPlane, space: Space, start: Start, resource: str
) -> None:
    grant(space.api, space.namespace, USER, without("watch", resource))
    operator = limited(plane, space, start, wait=False)
    operator.wait_for(f'cannot watch resource "{resource}"')
    assert operator.http("/livez") == "ok\n"
    grant(space.api, space.namespace, USER, OPERATOR_RULES)
    operator.wait_for("leading", timeout=60)


def test_an_operator_that_cannot_take_part_in_the_election_is_not_ready(
    plane: ControlPlane, space: Space, start: Start
) -> None:
    grant(space.api, space.namespace, USER, without("get", "leases"))
    operator = limited(plane, space, start, wait=False, lease=True)
    operator.wait_for('cannot get resource "leases"')
    assert "helm upgrade" in operator.readiness()
    grant(space.api, space.namespace, USER, OPERATOR_RULES)
    operator.wait_for("leading", timeout=30)


def only_watches(fault: Fault) -> Fault:
    async def made(request: web.Request) -> web.StreamResponse | None:
        return await fault(request) if is_watch(request) else None

    return made


def sometimes(fault: Fault, *, chance: float) -> Fault:
    dice = random.Random(1)

    async def made(request: web.Request) -> web.StreamResponse | None:
        return await fault(request) if dice.random() < chance else None

    return made


async def too_old(request: web.Request) -> web.StreamResponse:
    """A watch that begins and is told at once that its version is gone."""
    status = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"}
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    await response.prepare(request)
    await response.write(json.dumps({"type": "ERROR", "object": status}).encode() + b"\n")
    await response.write_eof()
    return response


async def broken_off(request: web.Request) -> web.StreamResponse:
    """An answer that ends in the middle."""
    response = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": "1000"})
    await response.prepare(request)
    await response.write(b'{"kind":"Li')
    if request.transport is not None:
        request.transport.abort()
    return response


FAULTS: dict[str, Fault] = {
    "429": answers(429, reason="TooManyRequests", Retry_After="1"),
    "429 for a day": answers(429, reason="TooManyRequests", Retry_After="86400"),
    "429 until a date": answers(429, reason="TooManyRequests", Retry_After="Wed, 21 Oct 2026 07:28:00 GMT"),
    "500 now and then": sometimes(answers(500), chance=0.5),
    "503": answers(503),
    "401": answers(401, reason="Unauthorized"),
    "410": only_watches(too_old),
    "broken off": broken_off,
}
FAULT_SECONDS = 6.0


@pytest.fixture
def proxy(plane: ControlPlane) -> Iterator[Proxy]:
    with Proxy(plane.kubeconfig_for("tandem-operator", ["system:masters"])) as between:
        yield between


@pytest.mark.parametrize("name", FAULTS)
def test_it_goes_on_when_the_api_server_is_itself_again(
    name: str, proxy: Proxy, space: Space, start: Start, tmp_path: Path
) -> None:
    operator = start(kubeconfig=proxy.kubeconfig(tmp_path / "kubeconfig"), namespaces=(space.namespace,))
    space.create(**AGG)
    space.wait_applied()
    used, _ = operator.usage()
    proxy.seen.clear()
    proxy.fault = FAULTS[name]
    proxy.cut()
    space.edit(limits={"maxNewTokens": 77})
    space.api.delete("Service", space.namespace, "chat")
    time.sleep(FAULT_SECONDS)
    assert operator.handle.poll() is None, operator.log_tail()
    assert operator.usage()[0] - used < FAULT_SECONDS / 3, "it does not spin"
    assert sum(proxy.seen.values()) < 100 * FAULT_SECONDS, "it does not storm the API server"
    proxy.heal()
    space.wait_applied(timeout=60)
    eventually(lambda: space.child("Service", "chat"), timeout=60)
    assert "Traceback" not in operator.log.read_text()


def test_a_hundred_huge_resources_are_refused_and_fit_into_the_operators_memory(
    plane: ControlPlane, space: Space, start: Start
) -> None:
    """The chart's limit is 512 MiB; before the start, as a list is what takes most."""
    env = [{"name": f"V{number}", "value": "x" * 1000} for number in range(1200)]
    pod = {"spec": {"containers": [{"name": "server", "env": env}]}}
    spec = {"mode": "agg", "roles": {"agg": {"replicas": 1, "podTemplate": pod}}}
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: space.create(f"huge-{number}", **spec), range(100)))
    operator = start(namespaces=(space.namespace,))
    status = space.wait_condition("Valid", "False", "InvalidSpec", name="huge-99", timeout=60)
    told = next(item["message"] for item in status["conditions"] if item["type"] == "Valid")
    assert "KiB as JSON, and at most 256 KiB are read" in told
    assert operator.peak_mb() < 400
    assert space.children("huge-99") == {}
