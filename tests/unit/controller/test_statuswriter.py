"""Statuses are written seldom, and no change of others is lost on the way."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from tandem.controller.conditions import Condition, as_status, false, true
from tandem.controller.pace import FREE
from tandem.controller.statuswriter import GATHER_SECONDS, StatusWriter
from tandem.kube.cache import Cache, entry_of
from tandem.kube.client import Listing
from tandem.kube.resources import MODEL_DEPLOYMENT
from tests.unit.kube.fakes import FakeClock


class Server:
    """An API server that holds one object and takes patches of its status."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.object: dict[str, Any] = {
            "apiVersion": MODEL_DEPLOYMENT.api_version,
            "kind": MODEL_DEPLOYMENT.kind,
            "metadata": {"name": "chat", "namespace": "ns", "uid": "u", "resourceVersion": "1", "generation": 1},
            "spec": {},
        }
        self.patches: list[dict[str, Any]] = []
        self.events: list[dict[str, Any]] = []
        self.unknown: set[str] = set()
        self.managers: list[str] = []

    async def merge(self, _resource: Any, _ns: str, _name: str, patch: Any, *, uid: str, subresource: str) -> Any:
        assert (uid, subresource) == ("u", "status")
        self.patches.append(patch["status"])
        status = {**(self.object.get("status") or {}), **patch["status"]}
        kept = {key: value for key, value in status.items() if value is not None and key not in self.unknown}
        self.object["status"] = kept
        self.object["metadata"]["resourceVersion"] = str(int(self.object["metadata"]["resourceVersion"]) + 1)
        return copy.deepcopy(self.object)

    async def list(self, _resource: Any, _ns: str, *, field_selector: str) -> Listing:
        assert field_selector == "metadata.name=chat"
        managed = [{"manager": manager, "subresource": "status"} for manager in self.managers]
        return Listing(({"metadata": {"managedFields": managed}},), "1")

    async def create(self, _resource: Any, event: dict[str, Any]) -> Any:
        self.events.append(event)
        return event


class Setup:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.server = Server(self.clock)
        client: Any = self.server
        self.cache = Cache()
        self.writer = StatusWriter(client, self.cache, self.clock)

    async def write(self, *conditions: Condition, **fields: Any) -> float | None:
        about = copy.deepcopy(self.server.object)
        previous = (about.get("status") or {}).get("conditions") or ()
        shown = as_status(conditions, previous, generation=1, now=self.clock.now())
        return await self.writer.write(entry_of(MODEL_DEPLOYMENT, about), about, {"conditions": shown, **fields})


STARTING = (false("Ready", "WorkersStarting", "0 of 2"), false("Degraded", "AsExpected"))
HALF = (false("Ready", "WorkersStarting", "1 of 2"), false("Degraded", "AsExpected"))
READY = (true("Ready", "Serving"), false("Degraded", "AsExpected"))
REFUSED = (false("Ready", "InvalidSpec"), false("Valid", "InvalidSpec"), true("Degraded", "InvalidSpec", "why"))


@pytest.fixture
def setup() -> Setup:
    return Setup()


async def test_changes_of_little_weight_are_gathered_into_one_write(setup: Setup) -> None:
    assert await setup.write(*STARTING) == pytest.approx(GATHER_SECONDS)
    await setup.clock.advance(0.1)
    assert await setup.write(*HALF) == pytest.approx(GATHER_SECONDS - 0.1)
    assert setup.server.patches == []
    await setup.clock.advance(GATHER_SECONDS)
    assert await setup.write(*HALF) is None
    assert len(setup.server.patches) == 1
    assert await setup.write(*HALF) is None
    assert len(setup.server.patches) == 1, "nothing has changed"


@pytest.mark.parametrize("conditions", [READY, REFUSED])
async def test_what_somebody_may_wait_for_is_written_at_once(setup: Setup, conditions: tuple[Condition, ...]) -> None:
    assert await setup.write(*conditions) is None
    assert len(setup.server.patches) == 1


async def test_a_change_that_is_taken_back_is_never_written(setup: Setup) -> None:
    await setup.write(*READY)
    await setup.write(*READY, phase="RollingOut")
    assert await setup.write(*READY) is None
    await setup.clock.advance(1)
    assert await setup.write(*READY) is None
    assert len(setup.server.patches) == 1


async def test_the_answer_is_in_the_cache_so_that_its_echo_is_no_news(setup: Setup) -> None:
    await setup.write(*READY)
    assert not setup.cache.put(entry_of(MODEL_DEPLOYMENT, setup.server.object))


async def test_a_spec_that_changed_meanwhile_is_looked_at_again_at_once(setup: Setup) -> None:
    # The answer brings it into the cache, so its own event is no news any more.
    about = copy.deepcopy(setup.server.object)
    setup.server.object["metadata"]["generation"] = 2
    setup.server.object["spec"] = {"mode": "disagg"}
    shown = as_status(READY, (), generation=1, now=setup.clock.now())
    assert await setup.writer.write(entry_of(MODEL_DEPLOYMENT, about), about, {"conditions": shown}) == 0.0


async def test_a_status_that_others_wrote_to_is_looked_at_again_at_once(setup: Setup) -> None:
    about = copy.deepcopy(setup.server.object)
    setup.server.object["status"] = {"phase": "Nonsense"}
    shown = as_status(READY, (), generation=1, now=setup.clock.now())
    assert await setup.writer.write(entry_of(MODEL_DEPLOYMENT, about), about, {"conditions": shown}) == 0.0


async def test_an_event_follows_a_transition_and_nothing_else(setup: Setup) -> None:
    await setup.write(*REFUSED)
    await setup.write(*REFUSED, phase="Invalid")
    await setup.clock.advance(1)
    await setup.write(*REFUSED, phase="Invalid")
    assert len(setup.server.patches) == 2
    (event,) = setup.server.events
    assert (event["type"], event["reason"], event["message"]) == ("Warning", "InvalidSpec", "why")
    assert event["involvedObject"]["uid"] == "u"


def tampered(setup: Setup) -> None:
    setup.server.object["status"]["phase"] = "Nonsense"


async def test_a_status_that_somebody_keeps_changing_is_written_ever_more_rarely(setup: Setup) -> None:
    await setup.write(*READY, phase="Ready")
    for _ in range(600):
        tampered(setup)
        await setup.write(*READY, phase="Ready")
        await setup.clock.advance(1)
    assert len(setup.server.patches) < 1 + FREE + 6 + 600 / 50


async def test_a_fight_over_a_status_is_told_once_with_who_it_is(setup: Setup) -> None:
    setup.server.managers = ["tandem"]
    await setup.write(*READY, phase="Ready")
    for _ in range(60):
        tampered(setup)
        await setup.write(*READY, phase="Ready")
        await setup.clock.advance(1)
    told = [event for event in setup.server.events if event["reason"] == "StatusContested"]
    assert len(told) == 1
    assert "a second Tandem operator that serves this namespace" in told[0]["message"]


async def test_a_field_that_the_crd_does_not_know_is_not_written_again_and_again(setup: Setup) -> None:
    setup.server.unknown = {"added"}
    waits = []
    for _ in range(60):
        waits.append(await setup.write(*READY, phase="Ready", added="1"))
        await setup.clock.advance(1)
    assert len(setup.server.patches) == 2, "once, and once more to be sure"
    assert set(waits[5:]) == {None}
    # What the CRD does know is still written.
    await setup.write(*READY, phase="RollingOut", added="1")
    await setup.clock.advance(1)
    await setup.write(*READY, phase="RollingOut", added="1")
    assert setup.server.object["status"]["phase"] == "RollingOut"
