"""A kind that comes, goes and comes back: the cache has its objects while it is served, and somebody is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tandem.kube.cache import Cache, Ref
from tandem.kube.client import Listing
from tandem.kube.discovery import Scope
from tandem.kube.errors import UNREACHABLE, ApiError
from tandem.kube.mirror import BACKOFF, PAGE
from tandem.kube.optional import OptionalKind
from tandem.kube.resources import LEADER_WORKER_SET, MANAGED_BY_SELECTOR
from tests.unit.kube.fakes import FakeClock, settle

ABSENT = ApiError(404, "NotFound", "the server could not find the requested resource")
FORBIDDEN = ApiError(403, "Forbidden", "no")
BROKEN = ApiError(500, "InternalError", "storage is away")


def obj(name: str, version: int, namespace: str = "ns") -> dict[str, Any]:
    return {
        "metadata": {
            "name": name,
            "namespace": namespace,
            "uid": f"uid-{name}",
            "resourceVersion": str(version),
            "labels": {"tandem.dev/deployment": "chat"},
        },
        "spec": {"replicas": 1},
    }


class Server:
    """An API server that serves the kind, or fails in its own way; a test feeds its watches."""

    def __init__(self, *objects: dict[str, Any]) -> None:
        self.objects = list(objects)
        self.failure: Exception | None = None
        self.watch_failure: Exception | None = None
        self.version = 100
        self.events: asyncio.Queue[Any] = asyncio.Queue()
        self.lists = 0

    async def list_kept(
        self, resource: Any, namespace: str | None, *, keep: Any, label_selector: str, limit: int
    ) -> Any:
        assert (resource, label_selector, limit) == (LEADER_WORKER_SET, MANAGED_BY_SELECTOR, PAGE)
        self.lists += 1
        if self.failure is not None:
            raise self.failure
        found = [item for item in self.objects if namespace in (None, item["metadata"]["namespace"])]
        return Listing(tuple(map(keep, found)), str(self.version))

    async def watch(self, *_: Any, **__: Any) -> Any:
        if self.watch_failure is not None:
            raise self.watch_failure
        while True:
            event = await self.events.get()
            if isinstance(event, Exception):
                raise event
            yield event


class Followed:
    """What a test sees."""

    def __init__(self, server: Server, scope: Scope) -> None:
        self.cache = Cache()
        self.clock = FakeClock()
        self.served: list[bool] = []
        self.news: list[str] = []
        client: Any = server
        self.kind = OptionalKind(
            client,
            self.cache,
            scope,
            self.clock,
            LEADER_WORKER_SET,
            on_change=lambda entry, _before: self.news.append(entry.ref.name),
            on_served=self.served.append,
        )

    @property
    def names(self) -> list[str]:
        return sorted(entry.ref.name for entry in self.cache.of_kind(LEADER_WORKER_SET.kind))


@asynccontextmanager
async def following(server: Server, scope: Scope = (None,)) -> AsyncIterator[Followed]:
    followed = Followed(server, scope)
    running = asyncio.create_task(followed.kind.run())
    await followed.kind.known()
    yield followed
    running.cancel()


async def test_where_it_is_served_its_objects_are_known_from_the_beginning() -> None:
    async with following(Server(obj("a", 5))) as found:
        assert found.served == [True]
        assert found.names == ["a"]


async def test_where_it_is_not_served_nothing_waits_for_it() -> None:
    server = Server()
    server.failure = ABSENT
    async with following(server) as found:
        assert found.served == [False]
        assert found.names == []


async def test_a_kind_that_comes_later_is_noticed() -> None:
    server = Server(obj("a", 5))
    server.failure = ABSENT
    async with following(server) as found:
        await found.clock.advance(600)
        assert server.lists < 600 / (BACKOFF.longest * (1 - BACKOFF.jitter)) + 12, "not asked for all the time"
        server.failure = None
        await found.clock.advance(BACKOFF.longest)
        assert found.served == [False, True]
        assert found.names == ["a"]


async def test_a_kind_that_goes_takes_its_objects_with_it() -> None:
    server = Server(obj("a", 5))
    async with following(server) as found:
        server.failure = ABSENT
        server.events.put_nowait(ABSENT)
        await found.clock.advance(1)
        assert found.served == [True, False]
        assert found.names == []
        assert found.news == ["a", "a"]


async def test_changes_are_followed() -> None:
    server = Server(obj("a", 5))
    async with following(server) as found:
        server.events.put_nowait(("ADDED", obj("b", 101)))
        server.events.put_nowait(("DELETED", obj("a", 102)))
        await settle()
        assert found.names == ["b"]
        assert found.news == ["a", "b", "a"]


async def test_what_went_while_the_watch_was_cut_off_is_dropped() -> None:
    server = Server(obj("a", 5), obj("b", 6))
    async with following(server) as found:
        server.objects.pop()
        server.version = 200
        server.events.put_nowait(ApiError(410, "Expired", "too old"))
        await settle()
        assert found.names == ["a"]
        assert found.served == [True]


async def test_what_we_may_not_read_is_not_there_for_us() -> None:
    server = Server(obj("a", 5))
    server.failure = FORBIDDEN
    async with following(server) as found:
        assert found.served == [False]


async def test_where_only_watching_is_forbidden_it_stays_unserved() -> None:
    server = Server(obj("a", 5))
    server.watch_failure = FORBIDDEN
    async with following(server) as found:
        await found.clock.advance(120)
        assert found.served == [True, False]
        server.watch_failure = None
        server.events.put_nowait(("BOOKMARK", obj("", 300)))
        await found.clock.advance(BACKOFF.longest)
        assert found.served == [True, False, True]


async def test_an_api_server_in_trouble_takes_nothing_away() -> None:
    server = Server(obj("a", 5))
    async with following(server) as found:
        server.failure = ApiError(UNREACHABLE, "Unreachable", "away")
        server.events.put_nowait(BROKEN)
        await found.clock.advance(60)
        assert found.served == [True]
        assert found.names == ["a"]


async def test_a_list_that_never_works_does_not_hold_up_the_rest() -> None:
    server = Server()
    server.failure = BROKEN
    found = Followed(server, (None,))
    running = asyncio.create_task(found.kind.run())
    beginning = asyncio.create_task(found.kind.known())
    await found.clock.advance(5)
    assert beginning.done()
    assert found.served == [False]
    running.cancel()


async def test_what_nobody_foresaw_ends_it_aloud() -> None:
    server = Server()
    server.failure = RuntimeError("a bug")
    with pytest.raises(ExceptionGroup) as raised:
        await Followed(server, (None,)).kind.run()
    assert raised.group_contains(RuntimeError, match="a bug")


@pytest.mark.parametrize("namespaces", [("ns", "other")])
async def test_of_several_namespaces_all_must_let_us_read(namespaces: tuple[str, ...]) -> None:
    server = Server(obj("a", 5), obj("b", 6, "other"))
    async with following(server, namespaces) as found:
        assert found.served == [True]
        assert found.names == ["a", "b"]
        assert found.cache.get(Ref(LEADER_WORKER_SET.kind, "other", "b")) is not None
