"""The cache is proven against plain lists: what a watch missed is found, what it did not deliver is told."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tandem.kube.cache import Cache, Entry, Ref, entry_of
from tandem.kube.client import Listing
from tandem.kube.resources import CONFIG_MAP, Resource
from tandem.kube.verify import ATTEMPTS, CATCH_UP_SECONDS, Verifier, WatchStuck
from tests.unit.kube.fakes import FakeClock, settle


class ListServer:
    """Answers lists of metadata with what it has."""

    def __init__(self) -> None:
        self.items: dict[tuple[Resource, str | None], list[dict[str, Any]]] = {}
        self.version = 100
        self.asked: list[tuple[str, str | None, str]] = []

    async def list(
        self, resource: Resource, namespace: str | None = None, *, label_selector: str = "", metadata_only: bool = False
    ) -> Listing:
        assert metadata_only
        self.asked.append((resource.kind, namespace, label_selector))
        return Listing(tuple(self.items.get((resource, namespace), ())), str(self.version))


def item(name: str, *, uid: str = "u1", version: int = 10) -> dict[str, Any]:
    metadata = {"name": name, "namespace": "ns", "uid": uid, "resourceVersion": str(version)}
    return {"metadata": metadata}


def entry(name: str, *, uid: str = "u1", version: int = 10) -> Entry:
    return entry_of(CONFIG_MAP, item(name, uid=uid, version=version))


class Setup:
    def __init__(self, scope: tuple[str | None, ...] = (None,)) -> None:
        self.server, self.cache, self.clock = ListServer(), Cache(), FakeClock()
        self.gone: list[str] = []
        client: Any = self.server
        self.verifier = Verifier(
            client, self.cache, scope, self.clock, on_gone=lambda entry: self.gone.append(entry.ref.name)
        )


@pytest.fixture
def setup() -> Setup:
    return Setup()


async def test_a_cache_that_has_everything_is_proven_at_once(setup: Setup) -> None:
    setup.server.items[CONFIG_MAP, None] = [item("a")]
    setup.cache.put(entry("a", version=12))
    await setup.verifier.verify(CONFIG_MAP)


async def test_what_was_deleted_unseen_is_dropped_and_told(setup: Setup) -> None:
    setup.cache.put(entry("a"))
    setup.cache.put(entry("b", uid="old"))
    setup.server.items[CONFIG_MAP, None] = [item("b", uid="new", version=11)]
    work = asyncio.create_task(setup.verifier.verify(CONFIG_MAP))
    await settle()
    assert setup.gone == ["a", "b"]
    setup.cache.put(entry("b", uid="new", version=11))
    await work


async def test_what_is_newer_than_the_list_is_left_alone(setup: Setup) -> None:
    setup.cache.put(entry("made-just-now", version=101))
    await setup.verifier.verify(CONFIG_MAP)
    assert setup.gone == []
    assert setup.cache.get(Ref("ConfigMap", "ns", "made-just-now")) is not None


async def test_it_waits_until_the_watch_has_delivered_what_the_list_shows(setup: Setup) -> None:
    setup.server.items[CONFIG_MAP, None] = [item("a"), item("b", version=20)]
    setup.cache.put(entry("b", version=19))
    work = asyncio.create_task(setup.verifier.verify(CONFIG_MAP))
    await settle()
    setup.cache.put(entry("a"))
    await settle()
    assert not work.done()
    setup.cache.put(entry("b", version=21))
    await work


async def test_an_announced_end_counts_as_delivered(setup: Setup) -> None:
    setup.server.items[CONFIG_MAP, None] = [item("a")]
    work = asyncio.create_task(setup.verifier.verify(CONFIG_MAP))
    await settle()
    setup.cache.remove(Ref("ConfigMap", "ns", "a"), uid="u1", version=11)
    await work


async def test_a_watch_that_never_delivers_is_stuck(setup: Setup) -> None:
    setup.server.items[CONFIG_MAP, None] = [item("a")]
    work = asyncio.create_task(setup.verifier.verify(CONFIG_MAP))
    await setup.clock.advance(CATCH_UP_SECONDS * ATTEMPTS + 1)
    with pytest.raises(WatchStuck, match=r"configmaps has not delivered 1 objects, among them ConfigMap ns/a"):
        await work
    assert setup.cache.observers == []


async def test_an_object_deleted_while_waiting_is_found_by_the_next_list(setup: Setup) -> None:
    setup.server.items[CONFIG_MAP, None] = [item("a")]
    work = asyncio.create_task(setup.verifier.verify(CONFIG_MAP))
    await settle()
    setup.server.items[CONFIG_MAP, None] = []
    await setup.clock.advance(CATCH_UP_SECONDS)
    await work


async def test_only_the_given_namespaces_are_asked() -> None:
    setup = Setup(("one", "two"))
    await setup.verifier.verify_all()
    assert {namespace for _, namespace, _ in setup.server.asked} == {"one", "two"}
    assert ("ModelDeployment", "one", "") in setup.server.asked
    assert ("Pod", "two", "app.kubernetes.io/managed-by=tandem") in setup.server.asked


async def test_a_kind_is_verified_soon_after_its_watch_began_anew(setup: Setup) -> None:
    await setup.verifier.verify_all()
    setup.cache.put(entry("a"))
    work = asyncio.create_task(setup.verifier.run(600))
    await settle()
    setup.server.asked.clear()
    setup.verifier.relisted(CONFIG_MAP)
    setup.verifier.relisted(CONFIG_MAP)
    await setup.clock.advance(2)
    assert [kind for kind, _, _ in setup.server.asked] == ["ConfigMap"]
    assert setup.gone == ["a"]
    work.cancel()


async def test_everything_is_verified_now_and_then(setup: Setup) -> None:
    work = asyncio.create_task(setup.verifier.run(600))
    await setup.clock.advance(599)
    assert setup.server.asked == []
    await setup.clock.advance(2)
    assert len(setup.server.asked) == 13
    work.cancel()
