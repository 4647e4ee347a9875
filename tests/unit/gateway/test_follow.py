"""What the router makes of slices that are followed. The API server is a script; the loop has tests of its own."""

from __future__ import annotations

import asyncio

import pytest

from tandem.gateway.discovery.follow import SliceFollower
from tandem.gateway.fleet import FleetView
from tandem.kube.client import Listing
from tandem.kube.errors import ApiError
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
        Listing((at("5", pod("a")),), "7"),
        [("ADDED", at("8", pod("b"), name="t")), bookmark("20")],
        [("DELETED", at("21", name="s"))],
        [],
    )
    assert api.asked == ["list", "watch 7", "watch 20", "watch 21", "watch 21"]
    assert history == [["a"], ["a", "b"], ["b"]]
    assert failures == []
    assert view.trouble is None


async def test_a_broken_connection_resumes_and_the_workers_stay_known():
    api, history, _, failures, view = await follow(
        Listing((at("5", pod("a")),), "7"),
        [("MODIFIED", at("8", pod("a"), pod("b", "10.0.0.2"))), ApiError(0, "", "reset")],
        [ApiError(0, "", "refused")],
        [ApiError(0, "", "refused")],
        [bookmark("9")],
    )
    assert api.asked == ["list", "watch 7", "watch 8", "watch 8", "watch 8", "watch 9"]
    assert history == [["a"], ["a", "b"]]
    assert api.recovered == [0, 0, 0]
    assert len(failures) == 3
    assert view.trouble is None


async def test_a_refusal_is_the_trouble_and_the_workers_stay_known():
    api, history, _, _, view = await follow(
        Listing((at("5", pod("a")),), "7"), [ApiError(403, "Forbidden", "no rights")]
    )
    assert api.asked == ["list", "watch 7", "list"]
    assert history == [["a"]]
    assert view.trouble == "no rights (403 Forbidden)"


async def test_until_a_list_was_read_nothing_is_known():
    _, _, pauses, failures, view = await follow(*[ApiError(0, "", "refused")] * 3)
    assert len(failures) == len(pauses) == 3
    assert not view.synced
