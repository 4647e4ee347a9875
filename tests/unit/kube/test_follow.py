"""Versions of objects are followed through every interruption; the API server is a script here."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tandem.kube.client import Listing
from tandem.kube.errors import UNREACHABLE, ApiError
from tandem.kube.follow import Follower
from tandem.kube.resources import CONFIG_MAP
from tests.unit.kube.fakes import FakeClock

GONE = ApiError(410, "Expired", "too old")
CUT = ApiError(UNREACHABLE, "Unreachable", "cut off")
FORBIDDEN = ApiError(403, "Forbidden", "no")


def meta(name: str, version: int) -> dict[str, Any]:
    return {"metadata": {"name": name, "resourceVersion": str(version)}}


def listing(version: int, **versions: int) -> Listing:
    return Listing(tuple(meta(name, at) for name, at in versions.items()), str(version))


class Script:
    """Answers in this order: a Listing, a list of events, or an error; an error may end a list of events."""

    def __init__(self, *steps: Any) -> None:
        self.steps = list(steps)
        self.asked: list[str] = []
        self.over = asyncio.Event()

    async def _next(self, question: str) -> Any:
        self.asked.append(question)
        if not self.steps:
            self.over.set()
            await asyncio.Event().wait()
        step = self.steps.pop(0)
        if isinstance(step, Exception):
            raise step
        return step

    async def list(self, resource: Any, namespace: str, *, metadata_only: bool) -> Listing:
        assert (resource, namespace, metadata_only) == (CONFIG_MAP, "ns", True)
        found: Listing = await self._next("list")
        return found

    async def watch(self, *_: Any, resource_version: str, timeout_seconds: int, metadata_only: bool) -> Any:
        assert metadata_only
        for step in await self._next(f"watch {resource_version}"):
            if isinstance(step, Exception):
                raise step
            yield step


async def follow(*steps: Any) -> tuple[list[str], list[tuple[str, int]]]:
    """What was asked, and what was told."""
    script, clock, told = Script(*steps), FakeClock(), list[tuple[str, int]]()
    client: Any = script
    follower = Follower(
        client, clock, CONFIG_MAP, "ns", known=lambda: {"a"}, on_version=lambda *news: told.append(news)
    )
    task = asyncio.create_task(follower.run())
    while not script.over.is_set():
        await clock.advance(1)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return script.asked, told


async def test_the_list_tells_of_what_is_known_and_the_watch_of_all() -> None:
    asked, told = await follow(listing(5, a=3, b=4), [("ADDED", meta("c", 6)), ("MODIFIED", meta("a", 7))])
    assert asked == ["list", "watch 5", "watch 7"]
    assert told == [("a", 3), ("c", 6), ("a", 7)]


async def test_what_is_not_in_the_list_or_was_deleted_is_told_too() -> None:
    _, told = await follow(listing(5), [("ADDED", meta("a", 6)), ("DELETED", meta("a", 7))])
    assert told == [("a", 5), ("a", 6), ("a", 7)]


async def test_a_bookmark_is_where_the_next_watch_begins_and_no_news() -> None:
    asked, told = await follow(listing(5, a=3), [("BOOKMARK", meta("", 90))])
    assert asked == ["list", "watch 5", "watch 90"]
    assert told == [("a", 3)]


async def test_a_connection_that_broke_is_taken_up_where_it_was() -> None:
    asked, _ = await follow(listing(5, a=3), [("MODIFIED", meta("a", 6)), CUT], CUT, [])
    assert asked == ["list", "watch 5", "watch 6", "watch 6", "watch 6"]


async def test_after_any_other_failure_there_is_a_fresh_list() -> None:
    for failure in (GONE, FORBIDDEN, ValueError("cut off in the middle"), KeyError("metadata")):
        asked, told = await follow(listing(5, a=3), [failure], listing(9, a=8))
        assert asked == ["list", "watch 5", "list", "watch 9"]
        assert told == [("a", 3), ("a", 8)]


@pytest.mark.parametrize(
    ("steps", "fewest", "most"), [([FORBIDDEN] * 50, 5, 15), ([listing(5), *[[]] * 500], 200, 305)]
)
async def test_an_api_server_that_has_no_use_for_us_is_not_asked_without_pause(
    steps: list[Any], fewest: int, most: int
) -> None:
    clock, script = FakeClock(), Script(*steps)
    client: Any = script
    task = asyncio.create_task(Follower(client, clock, CONFIG_MAP, "ns", known=set, on_version=lambda *_: None).run())
    await clock.advance(60)
    assert fewest < len(script.asked) < most
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
