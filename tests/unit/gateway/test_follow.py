"""List and watch, through every interruption. The API server is a script here, a real one in the integration tests."""

from __future__ import annotations

import asyncio

import pytest

from tandem.gateway.discovery.follow import LONGEST_PAUSE_SECONDS, ApiFailed, Listing, SliceFollower
from tandem.gateway.fleet import FleetView
from tests.unit.gateway.test_slices import item, pod


class ScriptedApi:
    """Answers with what the test lists; at the end of the script, the following is over."""

    def __init__(self, *script):
        self.script = list(script)
        self.asked = []
        self.recovered = []
        self.closed = 0

    def _next(self, question):
        self.asked.append(question)
        if not self.script:
            raise asyncio.CancelledError
        return self.script.pop(0)

    async def list(self):
        step = self._next("list")
        if isinstance(step, Exception):
            raise step
        return step

    async def watch(self, *, version, seconds):
        assert 60 <= seconds <= 90
        for step in self._next(f"watch {version}"):
            if isinstance(step, Exception):
                raise step
            yield step

    async def recover(self, error):
        self.recovered.append(error.status)

    async def close(self):
        self.closed += 1


def at(version, *endpoints, name="s"):
    made = item(*endpoints, name=name)
    made["metadata"]["resourceVersion"] = version
    return made


def bookmark(version):
    return "BOOKMARK", {"metadata": {"resourceVersion": version}}


async def follow(*script):
    """What was asked, the names seen after each change, the pauses, and the view at the end."""
    api = ScriptedApi(*script)
    view = FleetView()
    history, pauses, failures = [], [], []
    view.subscribe(lambda _, after: history.append([endpoint.name for endpoint in after.endpoints]))

    async def sleep(seconds):
        pauses.append(seconds)

    follower = SliceFollower(api, view, on_failure=lambda: failures.append(1), sleep=sleep, draw=lambda: 0.5)
    with pytest.raises(asyncio.CancelledError):
        await follower.run()
    assert api.closed == 1
    return api, history, pauses, failures, view


async def test_a_watch_goes_on_where_the_last_one_ended():
    api, history, _, failures, view = await follow(
        Listing([at("5", pod("a"))], "7"),
        [("ADDED", at("8", pod("b"), name="t")), bookmark("20")],
        [("DELETED", at("21", name="s"))],
        [],
    )
    assert api.asked == ["list", "watch 7", "watch 20", "watch 21", "watch 21"]
    assert history == [["a"], ["a", "b"], ["b"]]
    assert failures == []
    assert view.trouble is None


async def test_a_version_that_is_too_old_means_a_new_list_without_delay():
    api, history, pauses, failures, _ = await follow(
        Listing([at("5", pod("a"))], "7"),
        [ApiFailed(410, "too old")],
        Listing([at("50", pod("b"))], "50"),
        [bookmark("51")],
    )
    assert api.asked == ["list", "watch 7", "list", "watch 50", "watch 51"]
    assert history == [["a"], ["b"]]
    assert failures == []
    assert len(pauses) == 1  # between the watches


async def test_an_api_server_that_only_says_too_old_is_not_asked_without_pause():
    _, _, pauses, failures, _ = await follow(
        *(step for _ in range(6) for step in (Listing([], "1"), [ApiFailed(410, "too old")]))
    )
    assert len(failures) == 5
    assert sum(pauses) > 1


async def test_a_broken_connection_resumes_and_the_workers_stay_known():
    api, history, _, failures, view = await follow(
        Listing([at("5", pod("a"))], "7"),
        [("MODIFIED", at("8", pod("a"), pod("b", "10.0.0.2"))), ApiFailed(0, "reset")],
        [ApiFailed(0, "refused")],
        [ApiFailed(0, "refused")],
        [bookmark("9")],
    )
    assert api.asked == ["list", "watch 7", "watch 8", "watch 8", "watch 8", "watch 9"]
    assert history == [["a"], ["a", "b"]]
    assert api.recovered == [0, 0, 0]
    assert len(failures) == 3
    assert view.trouble is None


async def test_a_refusal_lists_anew():
    api, _, _, _, view = await follow(
        Listing([at("5", pod("a"))], "7"), [ApiFailed(500, "etcd")], Listing([], "9"), [ApiFailed(403, "no rights")]
    )
    assert api.asked == ["list", "watch 7", "list", "watch 9", "list"]
    assert view.trouble == "no rights"


async def test_failures_pause_longer_and_longer():
    _, _, pauses, failures, view = await follow(*[ApiFailed(0, "refused")] * 12)
    assert pauses[:4] == [0.1, 0.2, 0.4, 0.8]
    assert pauses[-1] == LONGEST_PAUSE_SECONDS
    assert len(failures) == 12
    assert not view.synced


async def test_where_only_watching_is_forbidden_failures_add_up_too():
    _, _, pauses, _, _ = await follow(
        *(step for _ in range(8) for step in (Listing([], "1"), [ApiFailed(403, "no watch")]))
    )
    assert pauses == sorted(pauses)
    assert pauses[-1] > 5
