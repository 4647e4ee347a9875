"""List and watch, through every interruption. The API server is a script here, a real one in the integration tests."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest

from tandem.kube.client import Listing
from tandem.kube.errors import UNREACHABLE, ApiError
from tandem.kube.follow import Follower
from tandem.kube.queue import Backoff

GONE = ApiError(410, "Expired", "too old")
CUT = ApiError(UNREACHABLE, "Unreachable", "cut off")
FORBIDDEN = ApiError(403, "Forbidden", "no")
BACKOFF = Backoff(base=0.1, longest=10.0, jitter=0.0)


def at(version: int, name: str = "a") -> dict[str, Any]:
    return {"metadata": {"name": name, "resourceVersion": str(version)}}


def listing(version: int, *items: dict[str, Any]) -> Listing:
    return Listing(items, str(version))


@dataclass
class Script:
    """A source that answers in this order: a Listing, a list of events, or an error; an error may end a list of events.

    At the end of the script, the following is over. As a listener it takes down what it hears.
    """

    steps: list[Any]
    asked: list[str] = field(default_factory=list)
    told: list[tuple[str, str]] = field(default_factory=list)
    failures: list[int] = field(default_factory=list)
    followed_times: int = 0
    pauses: list[float] = field(default_factory=list)

    def _next(self, question: str) -> Any:
        self.asked.append(question)
        if not self.steps:
            raise asyncio.CancelledError
        step = self.steps.pop(0)
        if isinstance(step, Exception):
            raise step
        return step

    async def list(self) -> Listing:
        found: Listing = self._next("list")
        return found

    async def watch(self, *, version: str, seconds: int) -> Any:
        assert seconds == 60 + 15
        for step in self._next(f"watch {version}"):
            if isinstance(step, Exception):
                raise step
            yield step

    def listed(self, found: Listing) -> None:
        self.told += [("LISTED", item["metadata"]["name"]) for item in found.items]

    def changed(self, kind: str, obj: dict[str, Any]) -> None:
        self.told.append((kind, obj["metadata"]["name"]))

    def followed(self) -> None:
        self.followed_times += 1

    async def failed(self, error: ApiError, failures: int) -> None:
        self.failures.append(failures)

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)


async def follow(*steps: Any) -> Script:
    script = Script(list(steps))
    follower = Follower(script, script, sleep=script.sleep, draw=lambda: 0.5, backoff=BACKOFF, watch_seconds=60)
    with pytest.raises(asyncio.CancelledError):
        await follower.run()
    return script


async def test_a_watch_goes_on_where_the_last_one_ended() -> None:
    found = await follow(listing(5, at(3)), [("ADDED", at(6, "b")), ("DELETED", at(7))], [])
    assert found.asked == ["list", "watch 5", "watch 7", "watch 7"]
    assert found.told == [("LISTED", "a"), ("ADDED", "b"), ("DELETED", "a")]
    assert found.failures == []


async def test_a_bookmark_is_where_the_next_watch_begins_and_no_news() -> None:
    found = await follow(listing(5), [("BOOKMARK", at(90))])
    assert found.asked == ["list", "watch 5", "watch 90"]
    assert found.told == []
    assert found.followed_times == 2


async def test_a_connection_that_broke_is_taken_up_where_it_was() -> None:
    found = await follow(listing(5), [("MODIFIED", at(6)), CUT], CUT, CUT, [])
    assert found.asked == ["list", "watch 5", "watch 6", "watch 6", "watch 6", "watch 6"]
    assert found.failures == [1, 2, 3]


@pytest.mark.parametrize("failure", [FORBIDDEN, ApiError(500, "", "etcd"), ValueError("cut off"), KeyError("metadata")])
async def test_after_any_other_failure_there_is_a_fresh_list(failure: Exception) -> None:
    found = await follow(listing(5), [failure], listing(9))
    assert found.asked == ["list", "watch 5", "list", "watch 9"]
    assert found.failures == [1]


async def test_an_event_that_is_not_understood_means_a_fresh_list() -> None:
    found = await follow(listing(5), [("MODIFIED", {"metadata": {"resourceVersion": "6"}})], listing(9))
    assert found.asked == ["list", "watch 5", "list", "watch 9"]


async def test_a_version_that_is_too_old_means_a_new_list_without_delay() -> None:
    found = await follow(listing(5), [GONE], listing(50), [("BOOKMARK", at(51))])
    assert found.asked == ["list", "watch 5", "list", "watch 50", "watch 51"]
    assert found.failures == []
    assert len(found.pauses) == 1  # between the watches


async def test_an_api_server_that_only_says_too_old_is_not_asked_without_pause() -> None:
    found = await follow(*(step for _ in range(6) for step in (listing(1), [GONE])))
    assert found.failures == [1, 2, 3, 4, 5]
    assert sum(found.pauses) > 1


async def test_failures_pause_longer_and_longer() -> None:
    found = await follow(*[CUT] * 12)
    assert found.pauses[:4] == [0.1, 0.2, 0.4, 0.8]
    assert found.pauses[-1] == BACKOFF.longest


async def test_where_only_watching_is_forbidden_failures_add_up_too() -> None:
    found = await follow(*(step for _ in range(8) for step in (listing(1), [FORBIDDEN])))
    assert found.pauses == sorted(found.pauses)
    assert found.pauses[-1] > 5
    assert found.followed_times == 0


async def test_watches_that_end_at_once_are_not_begun_without_pause() -> None:
    found = await follow(listing(5), *[[]] * 20)
    assert found.pauses == [BACKOFF.base] * 20
