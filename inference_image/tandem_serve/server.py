"""The life of the process: HTTP first, then the model, then requests until SIGTERM, then the drain."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import aiohttp
import uvicorn
from rich.console import Console
from starlette.types import ASGIApp

from tandem_edge.heads import BoundedHeads
from tandem_serve import logs
from tandem_serve.display import loading_bar
from tandem_serve.engine import stall
from tandem_serve.engine.checkpoint import open_checkpoint
from tandem_serve.engine.progress import LoadProgress
from tandem_serve.engine.types import Update
from tandem_serve.http.app import create_app
from tandem_serve.http.prompts import template_fault
from tandem_serve.hub import local_directory
from tandem_serve.metrics import ServerMetrics
from tandem_serve.problems import StartError, load_error
from tandem_serve.service import Service, Status
from tandem_serve.settings import Settings
from tandem_serve.tracing import from_environment

if TYPE_CHECKING:
    from tandem_serve.backend import Engine, Running

log = logging.getLogger(__name__)
_CLOSE_SECONDS = 5
_KEEP_ALIVE_SECONDS = 75  # longer than clients keep idle connections, so that none is closed under a request
_SWEEP_SECONDS = 1.0


class HttpServer(uvicorn.Server):
    """uvicorn without its own signal handling: the drain comes first."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves the signals alone."""
        yield


def http_config(app: ASGIApp) -> uvicorn.Config:
    """How uvicorn runs here: no logging and no lifespan of its own."""
    return uvicorn.Config(
        app,
        http=BoundedHeads,
        log_config=None,
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=_CLOSE_SECONDS,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        server_header=False,
    )


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Some million objects are made that all stay: looking for garbage among them takes a tenth of the time.

    They are never looked at again either, so that a collection while requests run is short.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


class Process:
    """One server process from start to end."""

    def __init__(
        self,
        settings: Settings,
        sock: socket.socket,
        progress: LoadProgress,
        *,
        stalled_after: float = stall.STALLED_SECONDS,
    ) -> None:
        self._settings = settings
        self._stalled_after = stalled_after
        self._sock = sock
        self._progress = progress
        spans = from_environment(os.environ, model=settings.served_name, role=settings.role)
        self._service = Service(settings, ServerMetrics(), spans=spans)
        self._service.loading = progress.told
        self._stop = asyncio.Event()
        self._http = HttpServer(http_config(create_app(self._service)))

    async def run(self) -> None:
        """Serves until SIGTERM or SIGINT. Raises `StartError` when the model cannot be loaded, or is stuck."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        serving = asyncio.create_task(self._http.serve(sockets=[self._sock]))
        log.info("listening", extra={"host": self._settings.host, "port": self._settings.port})
        try:
            await self._load_and_serve(loop)
        finally:
            self._http.should_exit = True
            await serving
            self._service.spans.close()

    async def _load_and_serve(self, loop: asyncio.AbstractEventLoop) -> None:
        stopping: asyncio.Future[Any] = asyncio.ensure_future(self._stop.wait())
        with loading_bar(self._progress, Console(stderr=True)):
            loading = self._load(loop)
            stalled: asyncio.Future[Any] = asyncio.ensure_future(
                stall.stalled(self._progress, limit=self._stalled_after)
            )
            waited = {cast(asyncio.Future[Any], loading), stopping, stalled}
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            stalled.cancel()
        if not loading.done() and not stopping.done():
            self._service.status = Status.FAILED
            raise stall.error(self._settings.model, self._progress)
        if not loading.done():
            self._service.status = Status.DRAINING
            log.info("stopped while loading")
            return
        try:
            engine = loading.result()
        except BaseException:
            self._service.status = Status.FAILED
            raise
        from tandem_serve import backend

        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            auto_decompress=False,
            trace_configs=self._service.spans.of_pulls(),
        ) as session:
            running = backend.connect(engine, self._service, session)
            self._service.attach(running.backend)
            log.info("ready", extra=self._ready_facts())
            sweeper = asyncio.create_task(self._sweep(running))
            try:
                await self._until_stopped(running, stopping)
            finally:
                sweeper.cancel()
                await running.puller.close()
        await asyncio.to_thread(running.engine.stop, _CLOSE_SECONDS)

    async def _until_stopped(self, running: Running, stopping: asyncio.Future[Any]) -> None:
        """Serves, then drains. Raises `StartError` when the engine is stuck."""
        stuck: asyncio.Future[Any] = asyncio.ensure_future(self._watch(running))
        drained: asyncio.Future[Any] | None = None
        try:
            await asyncio.wait({stopping, stuck}, return_when=asyncio.FIRST_COMPLETED)
            if not stuck.done():
                drained = asyncio.ensure_future(self._drain(running))
                await asyncio.wait({drained, stuck}, return_when=asyncio.FIRST_COMPLETED)
            if stuck.done():
                stuck.result()
        finally:
            for task in filter(None, (stuck, drained)):
                task.cancel()

    async def _watch(self, running: Running) -> None:
        """Never returns; raises `StartError` when the engine has been stuck for so long that nobody else will act."""
        limit = self._settings.stuck_seconds
        await stall.stuck(running.backend.stuck_for, limit=limit)
        error = stall.stuck_error(running.backend.stuck_for())
        reason = error.problems[0].reason
        log.critical("the engine is stuck", extra={"reason": reason, "stacks": stall.stacks()})
        self._service.fail(reason)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), stall.EXIT_SECONDS)
        raise error

    def _load(self, loop: asyncio.AbstractEventLoop) -> asyncio.Future[Engine]:
        """Loads in a thread of its own, a daemon: a signal while loading must not wait for it."""
        future: asyncio.Future[Engine] = loop.create_future()

        def settle(result: Engine | None, error: BaseException | None) -> None:
            if future.cancelled():
                return
            if error is not None:
                future.set_exception(error)
            elif result is not None:
                future.set_result(result)

        def work() -> None:
            try:
                engine = self._load_engine(loop)
            except StartError as error:
                outcome = partial(settle, None, error)
            except BaseException as error:
                log.debug("loading failed", exc_info=error)
                reason = f"{type(error).__name__}: {error}".splitlines()[0]
                outcome = partial(
                    settle,
                    None,
                    load_error(self._settings.model, reason=reason, fix="see the log with --log-level debug"),
                )
            else:
                outcome = partial(settle, engine, None)
            with contextlib.suppress(RuntimeError):  # the loop is gone: the process ends
                loop.call_soon_threadsafe(outcome)

        threading.Thread(target=work, name="loader", daemon=True).start()
        return future

    def _load_engine(self, loop: asyncio.AbstractEventLoop) -> Engine:
        directory = local_directory(self._settings, self._progress)
        # Before torch is imported: what is plainly wrong is said at once.
        self._progress.total_bytes = open_checkpoint(directory).total_bytes
        with self._progress.step("imports"), _uncollected():
            from tandem_serve import backend

            for library in ("transformers", "huggingface_hub"):
                logs.through_our_handler(library)

        def sink(updates: list[Update]) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is gone: nobody waits for news
                loop.call_soon_threadsafe(self._on_news, updates)

        engine = backend.start_engine(self._settings, directory, self._progress, sink=sink)
        if (fault := template_fault(engine.core.codec)) is not None:
            log.warning("the model's chat template is broken: chats will be refused", extra={"reason": fault})
        return engine

    def _on_news(self, updates: list[Update]) -> None:
        self._service.loaded.client.deliver(updates)

    def _ready_facts(self) -> dict[str, object]:
        facts, settings = self._service.loaded.facts, self._settings
        return {
            "model": settings.served_name,
            "role": settings.role,
            "device": facts.device,
            "dtype": facts.dtype,
            "parameters": facts.parameter_count,
            "max_running": settings.max_num_seqs,
            "kv_tokens": facts.kv_capacity_tokens,
            "prompts_beside": facts.prompts_beside,
            "seconds": round(self._progress.seconds, 3),
        }

    async def _sweep(self, running: Running) -> None:
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            running.backend.client.expire(self._service.clock())
            ended = running.backend.leases.expire()
            for _ in range(ended):
                self._service.metrics.kv_failed("expired")

    async def _drain(self, running: Running) -> None:
        """No new work; what runs may end within its time limit, and offered KV may still be fetched."""
        self._service.status = Status.DRAINING
        client, leases = running.backend.client, running.backend.leases
        log.info("draining", extra={"in_flight": client.in_flight, "leases": len(leases)})
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._settings.config.generation_timeout + _CLOSE_SECONDS):
                await client.drained()
                while len(leases):
                    leases.expire()
                    await asyncio.sleep(_SWEEP_SECONDS / 10)
        log.info("drained", extra={"in_flight": client.in_flight})
