"""One leader at a time: it stops before another can start, and hands over at once when it ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tandem.kube.errors import ApiError, Fenced
from tandem.kube.lease import LeaderLease, LeaseFence, LeaseTimes
from tandem.kube.resources import LEASE
from tests.unit.kube.fakes import FakeClock, LeaseClient, LeaseServer, settle

TIMES = LeaseTimes(duration=13, renew_deadline=9, retry_period=2, watch_period=1)


class Replica:
    """One process' part in the election."""

    def __init__(self, server: LeaseServer, clock: FakeClock, identity: str) -> None:
        self.client: LeaseClient = server.client()
        self.fence = LeaseFence(clock, TIMES)
        self.lease = LeaderLease(
            self.client,  # type: ignore[arg-type]
            clock,
            namespace="ns",
            name="operator",
            identity=identity,
            times=TIMES,
            fence=self.fence,
        )
        self.leads_since: float | None = None
        self.lost: str | None = None
        self._clock = clock

    async def run(self) -> None:
        await self.lease.acquire()
        self.leads_since = self._clock.monotonic()
        self.lost = await self.lease.keep()

    def may_write(self) -> bool:
        try:
            self.fence.check()
        except Fenced:
            return False
        return True


@asynccontextmanager
async def running(*replicas: Replica) -> AsyncIterator[list[asyncio.Task[None]]]:
    tasks = []
    for replica in replicas:
        tasks.append(asyncio.create_task(replica.run()))
        await settle()
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def server() -> LeaseServer:
    return LeaseServer()


@pytest.fixture
def first(server: LeaseServer, clock: FakeClock) -> Replica:
    return Replica(server, clock, "first")


@pytest.fixture
def second(server: LeaseServer, clock: FakeClock) -> Replica:
    return Replica(server, clock, "second")


async def test_the_first_leads_and_the_second_waits(first: Replica, second: Replica, clock: FakeClock) -> None:
    async with running(first, second):
        await clock.advance(60)
        assert first.may_write()
        assert not second.may_write()
        assert second.leads_since is None


async def test_when_the_leader_dies_the_second_takes_over_after_the_duration(
    first: Replica, second: Replica, clock: FakeClock
) -> None:
    async with running(first, second) as tasks:
        await clock.advance(30)
        died = clock.monotonic()
        tasks[0].cancel()
        await clock.advance(TIMES.duration + TIMES.retry_period + TIMES.watch_period)
        assert second.leads_since is not None
        assert second.leads_since - died <= 16


async def test_on_a_clean_end_the_second_takes_over_at_once(first: Replica, second: Replica, clock: FakeClock) -> None:
    async with running(first, second) as tasks:
        await clock.advance(30)
        tasks[0].cancel()
        await first.lease.release()
        assert not first.may_write()
        await clock.advance(TIMES.watch_period)
        assert second.may_write()


async def test_a_leader_that_is_cut_off_stops_before_another_can_start(
    first: Replica, second: Replica, clock: FakeClock
) -> None:
    async with running(first, second):
        await clock.advance(30)
        first.client.is_cut_off = True
        stopped = None
        for _ in range(400):
            await clock.advance(0.05)
            assert not (first.may_write() and second.may_write()), "two writers"
            if stopped is None and not first.may_write():
                stopped = clock.monotonic()
        assert first.lost is not None
        assert "could not be renewed" in first.lost
        assert second.leads_since is not None
        assert stopped is not None
        assert second.leads_since - stopped >= TIMES.duration - TIMES.renew_deadline - 2 * TIMES.watch_period


async def test_a_short_cut_changes_nothing(first: Replica, second: Replica, clock: FakeClock) -> None:
    async with running(first, second):
        await clock.advance(30)
        first.client.is_cut_off = True
        await clock.advance(5)
        first.client.is_cut_off = False
        await clock.advance(30)
        assert first.may_write()
        assert second.leads_since is None


async def test_a_leader_whose_lease_was_taken_stops_at_its_next_renewal(
    first: Replica, server: LeaseServer, clock: FakeClock
) -> None:
    async with running(first):
        await clock.advance(10)
        held = server.objects["Lease", "ns", "operator"]
        server.store("update", {**held, "spec": {**held["spec"], "holderIdentity": "thief"}})
        await clock.advance(TIMES.retry_period)
        assert first.lost == "another process holds it"
        assert not first.may_write()


async def test_a_lease_that_was_touched_but_not_taken_is_kept(
    first: Replica, server: LeaseServer, clock: FakeClock
) -> None:
    async with running(first):
        await clock.advance(10)
        held = server.objects["Lease", "ns", "operator"]
        server.store("update", {**held, "metadata": {**held["metadata"], "labels": {"a": "b"}}})
        await clock.advance(3 * TIMES.retry_period)
        assert first.lost is None
        assert first.may_write()


async def test_writes_get_no_more_time_than_until_another_could_start(first: Replica, clock: FakeClock) -> None:
    async with running(first):
        await clock.advance(0)
        assert first.fence.check() == pytest.approx(TIMES.duration)
        first.client.is_cut_off = True
        await clock.advance(8.5)
        assert first.fence.check() == pytest.approx(TIMES.duration - 8.5)
        await clock.advance(0.6)
        with pytest.raises(Fenced, match="no longer writes"):
            first.fence.check()


async def test_a_standby_survives_an_api_server_that_is_away(
    first: Replica, second: Replica, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    second.client.is_cut_off = True
    async with running(first, second) as tasks:
        await clock.advance(30)
        assert not tasks[1].done()
        second.client.is_cut_off = False
        tasks[0].cancel()
        await clock.advance(TIMES.duration + 2)
        assert second.may_write()
    told = [record.getMessage() for record in caplog.records if "standing by" in record.getMessage()]
    assert len(told) == len(set(told)), "each reason is told once"


async def test_the_lease_says_who_holds_it_since_when(
    first: Replica, second: Replica, server: LeaseServer, clock: FakeClock
) -> None:
    async with running(first, second) as tasks:
        await clock.advance(10)
        tasks[0].cancel()
        await clock.advance(20)
        spec = server.objects[LEASE.kind, "ns", "operator"]["spec"]
        assert (spec["holderIdentity"], spec["leaseTransitions"], spec["leaseDurationSeconds"]) == ("second", 1, 13)
        assert spec["acquireTime"] < spec["renewTime"]


async def test_a_lease_that_was_made_without_a_holder_is_free(
    first: Replica, server: LeaseServer, clock: FakeClock
) -> None:
    metadata = {"name": "operator", "namespace": "ns", "labels": {"app.kubernetes.io/managed-by": "Helm"}}
    server.store("create", {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata})
    async with running(first):
        await clock.advance(5)
        assert first.may_write()
    held = server.objects["Lease", "ns", "operator"]
    assert held["spec"]["holderIdentity"] == "first"
    assert held["metadata"]["labels"] == metadata["labels"]


@pytest.mark.parametrize("times", [{"duration": 5}, {"renew_deadline": 1}, {"retry_period": 0}])
def test_times_that_cannot_work_are_refused(times: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="renew_deadline < duration"):
        LeaseTimes(**times)


async def test_a_lease_that_may_not_be_had_is_told_until_it_may(
    first: Replica, server: LeaseServer, clock: FakeClock
) -> None:
    told: list[str] = []
    first.client.refusal = ApiError(403, "Forbidden", 'leases "operator" is forbidden')
    acquiring = asyncio.create_task(first.lease.acquire(told.append))
    await clock.advance(5)
    assert "Lease ns/operator cannot be had" in told[-1]
    assert "`helm upgrade` makes them anew" in told[-1]
    first.client.refusal = None
    await clock.advance(5)
    assert acquiring.done()
    assert told[-1] == ""
