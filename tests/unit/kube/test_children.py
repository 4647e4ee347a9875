"""The watches of children: the cache has what the API server has, and to be shut out for good ends the process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tandem.kube.cache import Cache
from tandem.kube.children import follow_children
from tandem.kube.client import Listing
from tandem.kube.discovery import Scope
from tandem.kube.errors import UNREACHABLE, ApiError
from tandem.kube.mirror import PAGE
from tandem.kube.resources import FOLLOWED_KINDS, MANAGED_BY_SELECTOR, SERVICE, Resource
from tandem.kube.verify import WatchStuck
from tests.unit.kube.fakes import FakeClock, settle

FORBIDDEN = ApiError(403, "Forbidden", "services is forbidden")
TOO_OLD = ApiError(410, "Expired", "too old resource version")
BROKEN = ApiError(UNREACHABLE, "Unreachable", "no route")


def service(name: str, version: int, namespace: str = "ns") -> dict[str, Any]:
    return {
        "metadata": {
            "name": name,
            "namespace": namespace,
            "uid": f"uid-{name}",
            "resourceVersion": str(version),
            "labels": {"tandem.dev/deployment": "chat"},
        },
        "spec": {"ports": [{"port": version}]},
    }


class Server:
    """An API server with Services; every other kind is empty. A test feeds the watch of the Services."""

    def __init__(self, *services: dict[str, Any]) -> None:
        self.services = list(services)
        self.version = 100
        self.failure: ApiError | None = None
        self.events: asyncio.Queue[Any] = asyncio.Queue()
        self.asked: set[tuple[Resource, str | None]] = set()

    async def list_kept(
        self, resource: Resource, namespace: str | None, *, keep: Any, label_selector: str, limit: int
    ) -> Any:
        assert (label_selector, limit) == (MANAGED_BY_SELECTOR, PAGE)
        self.asked.add((resource, namespace))
        if resource is not SERVICE:
            return Listing((), str(self.version))
        if self.failure is not None:
            raise self.failure
        found = [item for item in self.services if namespace in (None, item["metadata"]["namespace"])]
        return Listing(tuple(map(keep, found)), str(self.version))

    async def watch(self, resource: Resource, *_: Any, **__: Any) -> Any:
        while resource is not SERVICE:
            await asyncio.Event().wait()
        while True:
            event = await self.events.get()
            if isinstance(event, Exception):
                raise event
            yield event


class Followed:
    """What a test sees."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.cache = Cache()
        self.clock = FakeClock()
        self.news: list[str] = []

    async def run(self, scope: Scope = (None,)) -> None:
        client: Any = self.server
        await follow_children(
            client, self.cache, scope, self.clock, lambda entry, _before: self.news.append(entry.ref.name)
        )

    @property
    def names(self) -> list[str]:
        return sorted(entry.ref.name for entry in self.cache.of_kind(SERVICE.kind))


@asynccontextmanager
async def following(server: Server, scope: Scope = (None,)) -> AsyncIterator[Followed]:
    followed = Followed(server)
    running = asyncio.create_task(followed.run(scope))
    await settle()
    yield followed
    running.cancel()


async def test_every_kind_of_child_is_asked_for_in_every_namespace_of_the_scope() -> None:
    async with following(Server(), ("a", "b")) as found:
        assert found.server.asked == {(resource, name) for resource in FOLLOWED_KINDS for name in ("a", "b")}


async def test_what_is_there_comes_and_goes_reaches_the_cache() -> None:
    async with following(Server(service("a", 5), service("b", 6))) as found:
        assert found.names == ["a", "b"]
        found.server.events.put_nowait(("ADDED", service("c", 101)))
        found.server.events.put_nowait(("DELETED", service("a", 102)))
        await settle()
        assert found.names == ["b", "c"]
        assert found.news == ["a", "b", "c", "a"]


async def test_what_went_unseen_is_noticed_by_the_next_list() -> None:
    async with following(Server(service("a", 5), service("b", 6))) as found:
        found.server.services = [service("b", 6)]
        found.server.version = 200
        found.server.events.put_nowait(TOO_OLD)
        await found.clock.advance(60)
        assert found.names == ["b"]
        assert found.news == ["a", "b", "a"]


async def test_an_api_server_that_is_away_is_waited_for_and_nothing_is_forgotten() -> None:
    async with following(Server(service("a", 5))) as found:
        found.server.failure = BROKEN
        found.server.events.put_nowait(BROKEN)
        await found.clock.advance(3600)
        assert found.names == ["a"]
        found.server.failure = None
        await found.clock.advance(60)
        found.server.events.put_nowait(("ADDED", service("c", 101)))
        await settle()
        assert found.names == ["a", "c"]


async def test_rights_that_come_back_in_seconds_are_not_missed() -> None:
    server = Server(service("a", 5))
    server.failure = FORBIDDEN
    async with following(server) as found:
        await found.clock.advance(3)
        server.failure = None
        await found.clock.advance(30)
        assert found.names == ["a"]


async def test_rights_that_stay_away_end_it_with_their_name() -> None:
    server = Server(service("a", 5))
    server.failure = FORBIDDEN
    found = Followed(server)
    running = asyncio.create_task(found.run())
    await found.clock.advance(120)
    with pytest.raises(ExceptionGroup) as raised:
        await running
    assert raised.group_contains(WatchStuck, match="services in all namespaces cannot be followed: .*forbidden")
