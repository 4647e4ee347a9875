"""A defect is told on the resource once, and is gone from it with the next reconcile that ends well."""

from __future__ import annotations

from typing import Any

import pytest

from tandem.controller.conditions import Condition, as_status, false, find, true
from tandem.controller.failure import FailureReporter, failed_status
from tandem.controller.metrics import Metrics
from tandem.controller.statuswriter import StatusWriter
from tandem.controller.verdict import Verdict
from tandem.controller.worker import Workers
from tandem.kube.cache import Cache, Ref, entry_of
from tandem.kube.queue import WorkQueue
from tandem.kube.resources import MODEL_DEPLOYMENT
from tests.unit.controller.test_statuswriter import Server
from tests.unit.kube.fakes import START, FakeClock, settle

CHAT = Ref("ModelDeployment", "ns", "chat")
SERVING = (true("Ready", "Serving"), true("Valid", "Accepted"), false("Progressing", "Settled"))
FINE = (*SERVING, false("Degraded", "AsExpected"))


def document(*conditions: Condition, generation: int = 1, seen: int = 1) -> dict[str, Any]:
    shown = as_status(conditions, [], generation=seen, now=START)
    metadata = {"name": "chat", "namespace": "ns", "generation": generation}
    return {"metadata": metadata, "status": {"conditions": shown, "endpoint": "http://chat"} if conditions else {}}


def reasons(status: dict[str, Any]) -> dict[str, tuple[str, str]]:
    return {condition["type"]: (condition["status"], condition["reason"]) for condition in status["conditions"]}


def test_what_was_true_stays_and_the_failure_is_added() -> None:
    status = failed_status(document(*FINE), KeyError("x"), now=START)
    assert reasons(status) == {
        "Ready": ("True", "Serving"),
        "Valid": ("True", "Accepted"),
        "Degraded": ("True", "InternalError"),
        "Progressing": ("False", "InternalError"),
    }
    assert status["endpoint"] == "http://chat"
    degraded = find(status["conditions"], "Degraded")
    assert degraded is not None
    assert degraded["message"] == "the operator failed on this resource and tries again: KeyError: 'x'"


@pytest.mark.parametrize("known", [document(), document(*FINE, generation=2)])
def test_a_spec_of_which_nothing_is_known_is_not_ready(known: dict[str, Any]) -> None:
    assert reasons(failed_status(known, KeyError("x"), now=START))["Ready"] == ("False", "InternalError")


def test_a_failure_that_is_told_is_not_told_again_in_other_words() -> None:
    known = document(*FINE)
    known["status"] = failed_status(known, KeyError("at 0x1"), now=START)
    assert failed_status(known, KeyError("at 0x2"), now=START) == known["status"]
    edited = {**known, "metadata": {**known["metadata"], "generation": 2}}
    assert failed_status(edited, KeyError("at 0x2"), now=START) != known["status"], "another spec is another failure"


class Defective:
    """A reconciler with a defect, until it is mended; then it writes a good status."""

    def __init__(self, cache: Cache, statuses: StatusWriter) -> None:
        self.cache = cache
        self.statuses = statuses
        self.mended = False
        self.calls = 0

    async def reconcile(self, ref: Ref) -> Verdict:
        self.calls += 1
        if not self.mended:
            raise RuntimeError(f"attempt {self.calls}")
        entry = self.cache.get(ref)
        assert entry is not None
        known = entry.object
        shown = as_status(FINE, (known.get("status") or {}).get("conditions") or (), generation=1, now=START)
        return Verdict(again_after=await self.statuses.write(entry, known, {"conditions": shown}))


async def test_a_defect_is_one_write_and_one_event_however_often_it_is_tried_and_goes_when_mended() -> None:
    clock, cache = FakeClock(), Cache()
    server: Any = Server(clock)
    statuses = StatusWriter(server, cache, clock)
    queue: WorkQueue[Ref] = WorkQueue(clock)
    workers, defective = Workers(queue, Metrics()), Defective(cache, statuses)
    cache.put(entry_of(MODEL_DEPLOYMENT, server.object))
    workers.start({CHAT.kind: defective}, FailureReporter(cache, statuses, clock), 1)
    try:
        queue.add(CHAT)
        await clock.advance(60)
        assert defective.calls > 5
        assert len(server.patches) == 1
        assert reasons(server.object["status"])["Degraded"] == ("True", "InternalError")
        (event,) = server.events
        assert (event["type"], event["reason"]) == ("Warning", "InternalError")
        assert "RuntimeError: attempt" in event["message"]
        defective.mended = True
        await clock.advance(120)
        await settle()
        assert reasons(server.object["status"]) == reasons({"conditions": as_status(FINE, [], generation=1, now=START)})
    finally:
        await workers.stop(1)


async def test_a_resource_that_is_gone_is_not_written() -> None:
    clock, cache = FakeClock(), Cache()
    server: Any = Server(clock)
    reporter = FailureReporter(cache, StatusWriter(server, cache, clock), clock)
    assert await reporter.report(CHAT, KeyError("x")) is None
    assert server.patches == []
