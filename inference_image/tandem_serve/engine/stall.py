"""A load may take as long as it goes on; one in which nothing moves any more is given up."""

from __future__ import annotations

import asyncio
import faulthandler
import resource
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from tandem_serve.engine.progress import LoadProgress
from tandem_serve.problems import StartError, load_error

STALLED_SECONDS = 600.0
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
