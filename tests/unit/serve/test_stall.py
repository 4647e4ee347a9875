"""A load goes on as long as anything moves, and is given up when nothing does."""

from __future__ import annotations

import logging
import math
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tandem_serve import server
from tandem_serve.engine import stall
from tandem_serve.engine.progress import LoadProgress
from tandem_serve.engine.stall import Activity
from tandem_serve.problems import StartError
from tests.unit.serve import tiny


class Load:
    """A load in time that passes when the watch sleeps; `work` is called at each look with the seconds so far."""

    def __init__(self, work: Callable[[Load], None] = lambda _: None) -> None:
        self.now = 0.0
        self.did = Activity(0.0, 0)
        self.progress = LoadProgress(logging.getLogger("test"), clock=lambda: self.now)
        self.work = work

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        if self.now < 3600:
            self.work(self)

    async def watch(self) -> float:
        """When it was given up."""
        await stall.stalled(self.progress, limit=600, look=lambda: self.did, sleep=self.sleep)
        return self.now


def bytes_come(load: Load) -> None:
    if load.now % 300 == 0:
        load.progress.add(1)


def steps_change(load: Load) -> None:
    if load.now % 300 == 0:
        with load.progress.step("weights"):
            pass


def pages_are_read(load: Load) -> None:
    load.did = Activity(0.0, load.did.page_reads + 1)


def works(load: Load) -> None:
    load.did = Activity(load.did.cpu_seconds + 4.0, 0)


def answers_probes(load: Load) -> None:
    load.did = Activity(load.did.cpu_seconds + 0.1, 0)


@pytest.mark.parametrize("work", [bytes_come, steps_change, pages_are_read, works])
async def test_a_load_that_goes_on_is_given_its_time(work: Callable[[Load], None]) -> None:
    assert await Load(work).watch() >= 3600 + 300


@pytest.mark.parametrize("work", [lambda _: None, answers_probes])
async def test_a_load_in_which_nothing_moves_is_given_up(work: Callable[[Load], None]) -> None:
    assert await Load(work).watch() == 600


async def test_the_time_limits_of_a_download_are_its_own() -> None:
    def download(load: Load) -> None:
        load.progress.step_name = "download" if load.now < 1800 else "imports"

    assert await Load(download).watch() == 1800


async def test_a_server_whose_load_has_stalled_ends_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()

    def hang(*_: object) -> Path:
        released.wait(30)
        raise RuntimeError("released")

    monkeypatch.setattr(server, "local_directory", hang)
    progress = LoadProgress(logging.getLogger("test"))
    with socket.create_server(("127.0.0.1", 0)) as sock:
        process = server.Process(tiny.settings(Path("/models/qwen")), sock, progress, stalled_after=0.05)
        try:
            with pytest.raises(StartError, match="/models/qwen: loading has stalled: nothing moved for"):
                await process.run()
        finally:
            released.set()


HUNG = """
import asyncio, ctypes, logging
from tandem_serve.engine import stall
from tandem_serve.engine.progress import LoadProgress

stall.LOOK_SECONDS = 0.1

async def main():
    watch = asyncio.ensure_future(stall.stalled(LoadProgress(logging.getLogger()), limit=0.5))
    await asyncio.sleep(0)
    ctypes.PyDLL(None).sleep(60)  # holds the interpreter, as a read of hung storage can

asyncio.run(main())
"""


def test_a_process_that_hangs_as_a_whole_ends_and_says_where() -> None:
    done = subprocess.run([sys.executable, "-c", HUNG], capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 1
    assert "Timeout" in done.stderr
    assert "in main" in done.stderr


def test_what_stalled_is_said_with_how_far_it_was() -> None:
    load = Load()
    load.progress.total_bytes = 14_900
    with load.progress.step("weights"):
        load.progress.add(3_100)
    load.now = 700
    said = str(stall.error("/models/qwen", load.progress))
    assert "/models/qwen: loading has stalled: nothing moved for 700 s in step 'weights'" in said
    assert "3100 of 14900 bytes of weights were loaded" in said


def test_the_activity_of_this_process_grows_as_it_works() -> None:
    before = stall.activity()
    while stall.activity().cpu_seconds == before.cpu_seconds:
        sum(range(1000))
    assert stall.activity().cpu_seconds > before.cpu_seconds


class Step:
    """A step of the engine in time that passes when the watch sleeps."""

    def __init__(self, *, begins_every: float = math.inf) -> None:
        self.now = 0.0
        self.begins_every = begins_every

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        if self.now > 3600:
            raise TimeoutError

    def taken(self) -> float:
        return self.now % self.begins_every if self.begins_every < math.inf else self.now


async def test_a_step_that_never_ends_is_noticed_in_time() -> None:
    step = Step()
    await stall.stuck(step.taken, limit=300, sleep=step.sleep)
    assert step.now == 300


async def test_steps_that_end_are_never_taken_for_one() -> None:
    step = Step(begins_every=299)
    with pytest.raises(TimeoutError):
        await stall.stuck(step.taken, limit=300, sleep=step.sleep)


async def test_a_process_that_was_frozen_is_not_stuck() -> None:
    step, looks = Step(), iter([0.0, 5000.0, 5005.0, 0.0, 5.0])
    with pytest.raises(TimeoutError):
        await stall.stuck(lambda: next(looks, 0.0), limit=300, sleep=step.sleep)


async def test_an_engine_without_its_thread_is_stuck_at_once() -> None:
    step = Step()
    await stall.stuck(lambda: math.inf, limit=300, sleep=step.sleep)
    assert step.now == stall.LOOK_SECONDS
    assert "the thread that runs the model has ended" in str(stall.stuck_error(math.inf))


def test_where_the_threads_stand_is_told() -> None:
    assert "test_where_the_threads_stand_is_told" in stall.stacks()
