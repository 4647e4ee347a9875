"""Events are read for stuck pods only, and ever more rarely."""

from __future__ import annotations

from typing import Any

import pytest

from tandem.controller.hints import Hint, HintReader, hint_from, is_stuck, stuck_pods
from tandem.kube.cache import Ref
from tandem.kube.client import Listing
from tandem.kube.errors import ApiError
from tests.unit.controller.samples import container, ended, event, pod, running, unscheduled, waiting
from tests.unit.kube.fakes import FakeClock

CHAT = Ref("ModelDeployment", "ns", "chat")
READINESS = "Readiness probe failed: HTTP probe failed with statuscode: 503"


@pytest.mark.parametrize(
    ("sample", "stuck"),
    [
        (pod(), True),
        (waiting("ContainerCreating"), True),
        (running(ready=False), True),
        (ended(137), True),
        (waiting("ImagePullBackOff"), True),
        (running(ready=False, started=False), False),
        (running(ready=True), False),
        (unscheduled("no node"), False),
        (waiting("CreateContainerConfigError"), False),
        (ended(1), False),
        (pod(containerStatuses=[container(state={"waiting": {"reason": "PodInitializing"}})]), False),
    ],
)
def test_a_pod_is_stuck_when_its_status_leaves_the_reason_open(sample: dict[str, Any], stuck: bool) -> None:
    assert is_stuck(sample) is stuck


def test_the_latest_telling_event_counts() -> None:
    events = [
        event("Unhealthy", "Startup probe failed: refused", seen="2026-11-21T11:00:00Z"),
        event("Unhealthy", READINESS, seen="2026-11-21T11:30:00Z"),
        event("Pulled", "Successfully pulled image", seen="2026-11-21T11:40:00Z", kind="Normal"),
    ]
    assert hint_from(events) == Hint("Unhealthy", READINESS, "Readiness")
    assert hint_from(events[2:]) is None
    mount = event("FailedMount", 'secret "x" not found', seen="2026-11-21T11:50:00Z")
    assert hint_from([*events, mount]) == Hint("FailedMount", 'secret "x" not found')


def test_events_of_a_series_and_new_events_are_placed_in_time() -> None:
    old = event("FailedMount", "old", seen="2026-11-21T11:00:00Z")
    series = {**event("FailedMount", "series"), "lastTimestamp": None}
    series["series"] = {"lastObservedTime": "2026-11-21T11:10:00.000000Z", "count": 3}
    new = {"reason": "FailedMount", "message": "new", "eventTime": "2026-11-21T11:20:00.000000Z", "metadata": {}}
    assert hint_from([series, old]) == Hint("FailedMount", "series")
    assert hint_from([series, new, old]) == Hint("FailedMount", "new")


class Events:
    """The API server's Events, and how often they were asked for."""

    def __init__(self, *events: dict[str, Any]) -> None:
        self.events = events
        self.asked: list[tuple[float, str]] = []
        self.fails = False
        self.clock = FakeClock()

    async def list(self, _resource: Any, _namespace: str, *, field_selector: str) -> Listing:
        self.asked.append((self.clock.seconds, field_selector))
        if self.fails:
            raise ApiError(500, "InternalError", "down")
        return Listing(self.events, "1")

    def reader(self) -> HintReader:
        client: Any = self
        return HintReader(client, self.clock)


async def test_a_stuck_pod_is_looked_up_after_a_moment_then_ever_more_rarely() -> None:
    server = Events(event("Unhealthy", READINESS))
    reader, sample = server.reader(), running(ready=False)
    waits = []
    for _ in range(8):
        wait = await reader.look(CHAT, stuck_pods([sample]))
        assert wait is not None
        waits.append(wait)
        await server.clock.advance(wait)
    assert waits == [4, 8, 16, 32, 60, 60, 60, 60]
    assert {selector for _, selector in server.asked} == {f"involvedObject.uid={sample['metadata']['uid']}"}
    assert reader.hints(CHAT) == {sample["metadata"]["uid"]: Hint("Unhealthy", READINESS, "Readiness")}


async def test_looking_earlier_than_due_asks_nothing() -> None:
    server = Events()
    reader = server.reader()
    for _ in range(5):
        await reader.look(CHAT, stuck_pods([running(ready=False)]))
    assert server.asked == []


async def test_a_pod_that_recovers_is_forgotten() -> None:
    server = Events(event("Unhealthy", READINESS))
    reader = server.reader()
    await reader.look(CHAT, stuck_pods([running(ready=False)]))
    await server.clock.advance(4)
    await reader.look(CHAT, stuck_pods([running(ready=False)]))
    assert reader.hints(CHAT)
    assert await reader.look(CHAT, stuck_pods([running(ready=True)])) is None
    assert reader.hints(CHAT) == {}


async def test_what_is_known_stays_when_events_cannot_be_read() -> None:
    server = Events(event("Unhealthy", READINESS))
    reader = server.reader()
    await reader.look(CHAT, stuck_pods([running(ready=False)]))
    await server.clock.advance(4)
    await reader.look(CHAT, stuck_pods([running(ready=False)]))
    server.fails = True
    await server.clock.advance(8)
    assert await reader.look(CHAT, stuck_pods([running(ready=False)])) == 16
    assert reader.hints(CHAT)


async def test_pods_that_are_no_more_are_forgotten() -> None:
    server = Events(event("Unhealthy", READINESS))
    reader, sample = server.reader(), running(ready=False)
    await reader.look(CHAT, stuck_pods([sample]))
    await server.clock.advance(4)
    await reader.look(CHAT, stuck_pods([sample]))
    assert reader.hints(CHAT)
    assert await reader.look(CHAT, stuck_pods([])) is None
    assert reader.hints(CHAT) == {}
