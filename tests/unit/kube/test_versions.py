"""Of what is followed by name, names and versions are told, and nothing else is asked for."""

from __future__ import annotations

import asyncio
from typing import Any

from tandem.kube.client import Listing
from tandem.kube.resources import CONFIG_MAP
from tandem.kube.versions import follow_versions
from tests.unit.kube.fakes import FakeClock


def meta(name: str, version: int) -> dict[str, Any]:
    return {"metadata": {"name": name, "resourceVersion": str(version)}}


class Script:
    """A client that answers with one listing, then with these events."""

    def __init__(self, listing: Listing, *events: tuple[str, dict[str, Any]]) -> None:
        self.listing = listing
        self.events = events

    async def list(self, resource: Any, namespace: str, *, label_selector: str, metadata_only: bool) -> Listing:
        assert (resource, namespace, label_selector, metadata_only) == (CONFIG_MAP, "ns", "", True)
        return self.listing

    async def watch(self, *_: Any, metadata_only: bool, **__: Any) -> Any:
        assert metadata_only
        for event in self.events:
            yield event
        raise asyncio.CancelledError


async def told(listing: Listing, *events: tuple[str, dict[str, Any]]) -> list[tuple[str, int]]:
    client: Any = Script(listing, *events)
    found: list[tuple[str, int]] = []
    following = follow_versions(
        client, FakeClock(), CONFIG_MAP, "ns", known=lambda: {"a"}, on_version=lambda *news: found.append(news)
    )
    await asyncio.gather(asyncio.create_task(following), return_exceptions=True)
    return found


async def test_the_list_tells_of_what_is_known_and_the_watch_of_all() -> None:
    listing = Listing((meta("a", 3), meta("b", 4)), "5")
    assert await told(listing, ("ADDED", meta("c", 6)), ("MODIFIED", meta("a", 7))) == [("a", 3), ("c", 6), ("a", 7)]


async def test_what_is_not_in_the_list_or_was_deleted_is_told_too() -> None:
    assert await told(Listing((), "5"), ("DELETED", meta("a", 7))) == [("a", 5), ("a", 7)]
