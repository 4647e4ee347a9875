"""Runs a coroutine that signals end in order: each one cancels it, so that it can clean up (and hurry)."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run_until_signalled(main: Coroutine[Any, Any, int]) -> int:
    """The result of `main`, or 128 and the number of the first signal that ended it. For the main thread only."""
    received: list[signal.Signals] = []

    async def guarded() -> int:
        loop = asyncio.get_running_loop()
        task = asyncio.ensure_future(main)

        def on_signal(number: signal.Signals) -> None:
            received.append(number)
            task.cancel()

        for number in ENDING:
            loop.add_signal_handler(number, on_signal, number)
        return await task

    try:
        return asyncio.run(guarded())
    except asyncio.CancelledError:
        if not received:
            raise
        return 128 + received[0]
