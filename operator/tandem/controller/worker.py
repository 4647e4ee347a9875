"""Takes keys from the queue and reconciles them, each to its end, whatever goes wrong."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Mapping
from typing import Protocol

from tandem.controller.metrics import Metrics
from tandem.controller.verdict import Verdict
from tandem.kube.cache import Ref
from tandem.kube.errors import ApiError, Fenced
from tandem.kube.queue import WorkQueue

logger = logging.getLogger(__name__)


class Reconciler(Protocol):
    """Brings one object to what its spec says."""

    async def reconcile(self, ref: Ref) -> Verdict:
        """One round; may raise ApiError and Fenced."""


class Reporter(Protocol):
    """Tells users of failures that nobody foresaw."""

    async def report(self, ref: Ref, error: Exception) -> float | None:
        """Seconds to try again after, if any; may raise ApiError and Fenced."""


class Workers:
    """A number of tasks that work on the queue until stopped."""

    def __init__(self, queue: WorkQueue[Ref], metrics: Metrics) -> None:
        self._queue = queue
        self._reconcilers: Mapping[str, Reconciler] = {}
        self._reporter: Reporter | None = None
        self._metrics = metrics
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False
        self._idle = asyncio.Event()
        self._idle.set()

    def start(self, reconcilers: Mapping[str, Reconciler], reporter: Reporter, count: int) -> None:
        """Starts `count` workers; `reconcilers` by kind, `reporter` for what goes wrong in them."""
        self._reconcilers = reconcilers
        self._reporter = reporter
        self._tasks = [asyncio.create_task(self._work(), name=f"worker {number}") for number in range(count)]

    async def stop(self, seconds: float) -> None:
        """No new work is begun; what is under way may end within `seconds`, then it is cancelled."""
        self._stopping = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _work(self) -> None:
        while not self._stopping:
            key = await self._queue.get()
            self._idle.clear()
            try:
                if not self._stopping:
                    await self._reconcile(key)
            finally:
                self._queue.done(key)
                if not self._queue.busy:
                    self._idle.set()

    async def _reconcile(self, key: Ref) -> None:
        started = time.perf_counter()
        result = "ok"
        try:
            verdict = await self._reconcilers[key.kind].reconcile(key)
            if verdict.failed:
                result = "failed"
                self._queue.add_failed(key, at_least=verdict.at_least)
            else:
                self._queue.succeeded(key)
            if verdict.again_after is not None:
                self._queue.add_after(key, verdict.again_after)
        except Fenced as fenced:
            result = "failed"
            logger.warning("%s: %s", key, fenced)
            self._queue.add_failed(key, at_least=1.0)
        except ApiError as error:
            result = "failed"
            wait = self._queue.add_failed(key, at_least=error.retry_after or 0.0)
            logger.warning("%s: %s; again in %.1f s", key, error, wait)
        except Exception as error:
            result = "error"
            wait = self._queue.add_failed(key, at_least=1.0)
            logger.exception("%s: a bug in the operator; again in %.1f s", key, wait)
            await self._report(key, error)
        finally:
            self._metrics.reconciled(key.kind, result, time.perf_counter() - started)

    async def _report(self, key: Ref, error: Exception) -> None:
        if self._reporter is None:
            return
        try:
            wait = await self._reporter.report(key, error)
        except (ApiError, Fenced) as refusal:
            logger.warning("%s: the failure could not be told: %s", key, refusal)
        except Exception:
            logger.exception("%s: a second bug, in telling of the first", key)
        else:
            if wait is not None:
                self._queue.add_after(key, wait)
