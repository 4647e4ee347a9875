"""The operator process: credentials, election, work, health, and an orderly end."""

from __future__ import annotations

import asyncio
import logging
import secrets
import signal
import socket
from collections.abc import Callable, Coroutine
from typing import Any

from tandem.controller.health import Health, serving_health
from tandem.controller.leading import Controller
from tandem.controller.logs import configure_logging
from tandem.controller.metrics import Metrics
from tandem.controller.settings import LeaderElection, OperatorSettings
from tandem.kube.client import Client, Fence, NoFence
from tandem.kube.clock import Clock, SystemClock
from tandem.kube.connection import Connection, connect
from tandem.kube.discovery import wait_until_usable
from tandem.kube.errors import ApiError, CredentialsError
from tandem.kube.lease import LeaderLease, LeaseFence
from tandem.kube.verify import WatchStuck

logger = logging.getLogger(__name__)

FINISH_SECONDS = 8.0
CLOSE_SECONDS = 2.0


class LeaseLost(Exception):
    """Another process may act by now."""


def run(settings: OperatorSettings) -> None:
    """Runs the operator until SIGTERM or SIGINT. Raises SystemExit(1), with the reason logged, when it cannot go on."""
    configure_logging(settings.log_level, settings.log_format)
    try:
        asyncio.run(_operate(settings, SystemClock()))
    except* CredentialsError as errors:
        _give_up("%s", errors)
    except* (WatchStuck, LeaseLost, ApiError) as errors:
        _give_up("ending, to be started anew: %s", errors)
    logger.info("stopped")


def _give_up(text: str, errors: BaseExceptionGroup[Exception]) -> None:
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    logger.error(text, error)
    raise SystemExit(1)


class _Stop:
    """SIGTERM and SIGINT, as something to wait for."""

    def __init__(self) -> None:
        self._asked = asyncio.Event()

    def listen(self) -> None:
        """Takes the signals, from whoever had them."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._asked.set)

    async def wait(self) -> None:
        """Returns when the process is asked to end."""
        await self._asked.wait()

    async def before(self, work: Coroutine[Any, Any, None]) -> bool:
        """Runs `work`; True when the process was asked to end before that was done."""
        stopped = asyncio.create_task(self.wait())
        worked = asyncio.create_task(work)
        try:
            await asyncio.wait({stopped, worked}, return_when=asyncio.FIRST_COMPLETED)
            if worked.done():
                worked.result()
            return not worked.done()
        finally:
            for task in (stopped, worked):
                task.cancel()
            await asyncio.gather(stopped, worked, return_exceptions=True)


async def _operate(settings: OperatorSettings, clock: Clock) -> None:
    """The whole life of the process; returns when it was asked to end."""
    stop = _Stop()
    stop.listen()
    metrics, health = Metrics(), Health()
    async with (
        serving_health(health, metrics, host=settings.health_host, port=settings.health_port) as port,
        connect(settings.kubeconfig) as connection,
    ):
        if port is not None:
            logger.info("health and metrics are served on port %d", port)
        health.state = "checking the cluster"
        reader = Client(connection, observer=metrics.requested)
        if await stop.before(wait_until_usable(reader, settings.namespaces or (None,), clock, health.waits_for)):
            return
        lease = _Leadership(settings.leader_election, connection, clock)
        health.state = "standing by"
        if await stop.before(lease.acquire(health.waits_for)):
            return
        metrics.leads(True)
        health.state = "filling the cache"
        controller = Controller(
            settings,
            connection=connection,
            client=Client(connection, fence=lease.fence, observer=metrics.requested),
            clock=clock,
            metrics=metrics,
            health=health,
        )
        await _lead(controller, lease, stop)


async def _lead(controller: Controller, lease: _Leadership, stop: _Stop) -> None:
    """Works until asked to end; raises when the lease is lost or a watch has failed."""
    watch = asyncio.create_task(_watch(controller), name="watch")
    signals = asyncio.create_task(_take_signals_back(controller, stop), name="signals")
    work = asyncio.create_task(controller.work(), name="work")
    ends = [asyncio.create_task(stop.wait()), asyncio.create_task(lease.lost()), work]
    try:
        done, _ = await asyncio.wait({watch, *ends}, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
        if work in done:
            # When a watch fails, Kopf logs why, and ends the tasks of ours that are younger than itself.
            raise WatchStuck("a watch has failed, for the reason logged above")
    finally:
        await controller.finish(FINISH_SECONDS)
        await lease.release()
        # Kopf waits for every task that is younger than itself: ours end before it.
        await _cancelled(signals, *ends)
        controller.close()
        await asyncio.wait({watch}, timeout=CLOSE_SECONDS)
        await _cancelled(watch)


async def _watch(controller: Controller) -> None:
    """Raises WatchStuck, whatever made a watch fail: its kind may have been removed, say."""
    try:
        await controller.watch()
    except Exception as error:
        raise WatchStuck(f"a watch has failed: {error!r}") from error


async def _cancelled(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _take_signals_back(controller: Controller, stop: _Stop) -> None:
    """Kopf takes the signals for itself when it starts; our end has an order that it does not know."""
    await controller.watching()
    stop.listen()


class _Leadership:
    """The lease of this process, or the certainty of being alone when there is no election."""

    def __init__(self, election: LeaderElection | None, connection: Connection, clock: Clock) -> None:
        self._lease: LeaderLease | None = None
        self.fence: Fence = NoFence()
        if election is None:
            return
        fence = LeaseFence(clock, election.times)
        self.fence = fence
        self._lease = LeaderLease(
            Client(connection, timeout=election.times.retry_period * 2),
            clock,
            namespace=election.namespace,
            name=election.name,
            identity=election.identity or f"{socket.gethostname()}_{secrets.token_hex(4)}",
            times=election.times,
            fence=fence,
        )

    async def acquire(self, tell: Callable[[str], None]) -> None:
        """Returns when this process may act; `tell` hears of what keeps it from taking part in the election."""
        if self._lease is not None:
            await self._lease.acquire(tell)

    async def lost(self) -> None:
        """Renews the lease; raises LeaseLost when that fails for too long."""
        if self._lease is None:
            await asyncio.Event().wait()
            return
        raise LeaseLost(f"the leader lease is lost: {await self._lease.keep()}")

    async def release(self) -> None:
        """Lets another process act at once."""
        if self._lease is not None:
            await self._lease.release()
