"""The outer edges of the kube package, under a test's control: time, and an API server that keeps Leases."""

from __future__ import annotations

import asyncio
import copy
import heapq
import itertools
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from tandem.kube.errors import UNREACHABLE, ApiError
from tandem.kube.resources import Resource

START = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


class FakeTimer:
    """A call that waits for the clock."""

    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class FakeClock:
    """Time passes when a test says so; what is due on the way happens at its time."""

    def __init__(self) -> None:
        self.seconds = 1000.0
        self._timers: list[tuple[float, int, FakeTimer]] = []
        self._order = itertools.count()

    def monotonic(self) -> float:
        return self.seconds

    def now(self) -> datetime:
        return START + timedelta(seconds=self.seconds - 1000.0)

    def call_later(self, seconds: float, callback: Callable[[], None]) -> FakeTimer:
        timer = FakeTimer(callback)
        heapq.heappush(self._timers, (self.seconds + seconds, next(self._order), timer))
        return timer

    async def sleep(self, seconds: float) -> None:
        done = asyncio.get_running_loop().create_future()
        self.call_later(seconds, lambda: done.done() or done.set_result(None))
        await done

    async def advance(self, seconds: float) -> None:
        """Lets `seconds` pass, and lets tasks run whenever something was due."""
        await settle()
        end = self.seconds + seconds
        while self._timers and self._timers[0][0] <= end:
            due, _, timer = heapq.heappop(self._timers)
            self.seconds = max(self.seconds, due)
            if not timer.cancelled:
                timer.callback()
                await settle()
        self.seconds = end
        await settle()


async def settle() -> None:
    """Lets all tasks run that can."""
    for _ in range(20):
        await asyncio.sleep(0)


class LeaseServer:
    """Keeps objects as the API server does, with versions; can be cut off. Made for several clients."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str, str], dict[str, Any]] = {}
        self.writes: list[tuple[str, dict[str, Any]]] = []
        self._versions = itertools.count(1)

    def client(self) -> LeaseClient:
        return LeaseClient(self)

    def store(self, verb: str, obj: dict[str, Any]) -> dict[str, Any]:
        stored = copy.deepcopy(obj)
        stored["metadata"]["resourceVersion"] = str(next(self._versions))
        metadata = stored["metadata"]
        self.objects[stored["kind"], metadata["namespace"], metadata["name"]] = stored
        self.writes.append((verb, stored))
        return copy.deepcopy(stored)


class LeaseClient:
    """What `LeaderLease` needs of a client."""

    def __init__(self, server: LeaseServer) -> None:
        self._server = server
        self.is_cut_off = False
        self.refusal: ApiError | None = None

    async def get(self, resource: Resource, namespace: str, name: str) -> dict[str, Any]:
        self._reach()
        found = self._server.objects.get((resource.kind, namespace, name))
        if found is None:
            raise ApiError(404, "NotFound", f"{name} not found")
        return copy.deepcopy(found)

    async def create(self, resource: Resource, obj: dict[str, Any]) -> dict[str, Any]:
        self._reach()
        if (resource.kind, obj["metadata"]["namespace"], obj["metadata"]["name"]) in self._server.objects:
            raise ApiError(409, "AlreadyExists", "exists")
        return self._server.store("create", obj)

    async def replace(self, resource: Resource, obj: dict[str, Any]) -> dict[str, Any]:
        self._reach()
        found = await self.get(resource, obj["metadata"]["namespace"], obj["metadata"]["name"])
        if found["metadata"]["resourceVersion"] != obj["metadata"]["resourceVersion"]:
            raise ApiError(409, "Conflict", "the object has been modified")
        return self._server.store("update", obj)

    def _reach(self) -> None:
        if self.is_cut_off:
            raise ApiError(UNREACHABLE, "Unreachable", "the API server cannot be reached")
        if self.refusal is not None:
            raise self.refusal
