"""A load may take as long as it goes on; one in which nothing moves any more is given up. So is a step of the model."""

from __future__ import annotations

import asyncio
import faulthandler
import math
import resource
import sys
import traceback
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from tandem_serve.engine.progress import LoadProgress
from tandem_serve.problems import EXIT_LOAD, Problem, StartError, load_error

STALLED_SECONDS = 600.0
EXIT_SECONDS = 90.0
"""From the moment liveness fails to the end of the process by itself: more than the kubelet takes to act."""
LOOK_SECONDS = 5.0
# Answering probes takes less than this part of a CPU.
_BUSY = 0.2


class Activity(NamedTuple):
    """What the process has done since it began: seconds of CPU, and waits for pages from storage."""

    cpu_seconds: float
    page_reads: int


def activity() -> Activity:
    """That of this process."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return Activity(usage.ru_utime + usage.ru_stime, usage.ru_majflt)


async def stalled(
    progress: LoadProgress,
    *,
    limit: float = STALLED_SECONDS,
    look: Callable[[], Activity] = activity,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Returns when for `limit` seconds no byte was counted, no step began or ended, and the process did nothing.

    Files are mapped into memory: what is counted as loaded may only be read later, when it is moved or used. When such
    a read hangs and holds the interpreter, this function cannot run either: then the process prints where its threads
    stand and ends with status 1.
    """
    seen = look()
    try:
        while progress.still_seconds < limit:
            faulthandler.dump_traceback_later(limit + 2 * LOOK_SECONDS, exit=True)
            await sleep(min(LOOK_SECONDS, limit))
            now = look()
            if now.page_reads > seen.page_reads or now.cpu_seconds - seen.cpu_seconds > _BUSY * LOOK_SECONDS:
                progress.moved()
            seen = now
    finally:
        faulthandler.cancel_dump_traceback_later()


def error(model: str, progress: LoadProgress) -> StartError:
    """What a person gets then."""
    loaded = f"{progress.loaded_bytes} of {progress.total_bytes} bytes of weights were loaded"
    reason = f"loading has stalled: nothing moved for {progress.still_seconds:.0f} s in step {progress.step_name!r}"
    fix = "look at the storage or the network that the files come from"
    return load_error(model, reason=f"{reason}; {loaded}", fix=fix)


async def stuck(
    stuck_for: Callable[[], float], *, limit: float, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
) -> None:
    """Returns when one step of the engine has taken `limit` seconds, or the engine's thread is gone.

    Only time that this function saw pass counts: a process that was frozen for a while is not stuck. When a step holds
    the interpreter, so that this cannot run, the process prints where its threads stand and ends with status 1.
    """
    look = min(LOOK_SECONDS, limit)
    still = 0.0
    try:
        while still < limit:
            faulthandler.dump_traceback_later(limit + EXIT_SECONDS, exit=True)
            await sleep(look)
            busy = stuck_for()
            still = busy if math.isinf(busy) else min(busy, still + look)
    finally:
        faulthandler.cancel_dump_traceback_later()


def stuck_error(seconds: float) -> StartError:
    """What a person gets then."""
    if math.isinf(seconds):
        reason = "the thread that runs the model has ended"
    else:
        reason = f"a step of the model has taken {seconds:.0f} s and goes on: the device is stuck"
    problem = Problem(path="engine", reason=reason, fix="look at the device and its driver; the server starts again")
    return StartError((problem,), exit_code=EXIT_LOAD)


def stacks() -> str:
    """Where all threads stand."""
    frames = sys._current_frames().items()
    return "\n".join(f"thread {ident}:\n{''.join(traceback.format_stack(frame))}" for ident, frame in frames)
