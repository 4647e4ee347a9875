"""What workers tell reaches the status by way of the router, and takes no more writes than it has news."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tandem.manifests import names
from tests.cluster.control_plane import ControlPlane
from tests.integration.controller.api import Object, eventually
from tests.integration.controller.node import ToldNode, loading, serving
from tests.integration.controller.space import DISAGG, Space, condition
from tests.integration.controller.test_reconcile import writes

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("operator")]

ADDRESS = "127.77.0.7"
GB = 10**9


class Router:
    """Answers `GET /loading` at a pod's address."""

    def __init__(self) -> None:
        self.workers: list[dict[str, Any]] = []
        self.refused: list[dict[str, Any]] = []
        self.asked = 0
        router = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                router.asked += 1
                body = json.dumps({"workers": router.workers, "refused_handoffs": router.refused}).encode()
                self.send_response(200 if self.path == "/loading" else 404)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer((ADDRESS, names.HTTP_PORT), Handler)

    def tells(self, pods: list[Object], loaded: int) -> None:
        self.workers = [
            {"name": pod["metadata"]["name"], "loaded_bytes": loaded, "total_bytes": 149 * GB // 10} for pod in pods
        ]


@pytest.fixture
def router() -> Iterator[Router]:
    try:
        made = Router()
    except OSError as error:
        pytest.skip(f"a router cannot be played at {ADDRESS}:{names.HTTP_PORT}: {error}")
    thread = threading.Thread(target=made.server.serve_forever, daemon=True)
    thread.start()
    yield made
    made.server.shutdown()
    made.server.server_close()
    thread.join()


def with_address(pod: Object) -> Object:
    if "tandem.dev/role" in pod["metadata"]["labels"]:
        return serving(pod)
    return {**serving(pod), "podIP": ADDRESS, "podIPs": [{"ip": ADDRESS}]}


def starting(pod: Object) -> Object:
    return loading(pod) if pod["metadata"]["labels"].get("tandem.dev/role") == "decode" else with_address(pod)


def shown(space: Space) -> dict[str, Any]:
    return {role: view.get("loading") for role, view in (space.status().get("roles") or {}).items()}


def test_loading_is_shown_while_it_goes_on_and_gone_when_workers_are_ready(
    plane: ControlPlane, space: Space, node: ToldNode, router: Router
) -> None:
    node.behave = starting
    space.create(**DISAGG)
    pods = eventually(lambda: space.pods("tandem.dev/role=decode"), lambda found: len(found) == 2)
    router.tells(pods, 31 * GB // 10)
    eventually(lambda: shown(space), lambda found: found == {"prefill": None, "decode": "3.1/14.9 GB"})
    # While prefill is not up either, that is what Ready says first.
    space.wait_condition("PrefillReady", "True")
    said = eventually(lambda: condition(space.get(), "Ready")["message"], lambda text: "loading" in text)
    assert "loading 3.1/14.9 GB" in said

    since, asked = plane.audit_offset(), router.asked
    router.tells(pods, 31 * GB // 10 + 1)
    eventually(lambda: router.asked, lambda count: count >= asked + 2)
    router.tells(pods, 9 * GB)
    eventually(lambda: shown(space)["decode"], lambda found: found == "9.0/14.9 GB")
    statuses = [found for found in writes(plane, since, space.namespace) if found[1] == "modeldeployments/status"]
    assert len(statuses) <= 2, "a byte that changes nothing that is shown is not written"

    node.behave = with_address
    space.wait_condition("Ready", "True")
    assert shown(space) == {"prefill": None, "decode": None}
    assert "rootCause" not in space.status()


def test_a_refused_hand_off_becomes_a_condition_and_heals(
    plane: ControlPlane, space: Space, node: ToldNode, router: Router
) -> None:
    node.behave = starting  # as long as something loads, the router is asked every few seconds
    space.create(**DISAGG)
    pods = eventually(lambda: space.pods("tandem.dev/role=decode"), lambda found: len(found) == 2)
    router.tells(pods, 31 * GB // 10)
    space.wait_condition("HandOff", "True", "Accepted")
    name = pods[0]["metadata"]["name"]
    message = "protocol is 'tandem-kv/4' at the prefill worker and 'tandem-kv/5' here"
    router.refused = [{"name": name, "revision": "r", "reason": "protocol", "message": message}]
    space.wait_condition("HandOff", "False", "HandoffRefused")
    told = condition(space.get(), "HandOff")["message"]
    assert name in told
    assert message in told
    assert "same image" in told
    assert condition(space.get(), "Degraded")["reason"] == "HandoffRefused"

    since, asked = plane.audit_offset(), router.asked
    eventually(lambda: router.asked, lambda count: count >= asked + 2)
    assert writes(plane, since, space.namespace) == [], "what is known is not written again"

    router.refused = []
    space.wait_condition("HandOff", "True", "Accepted")
    assert condition(space.get(), "Degraded")["status"] == "False"
    node.behave = with_address
    space.wait_condition("Ready", "True")
