"""Runs the router as a process: socket, signals, drain, exit."""

from __future__ import annotations

import asyncio
import errno
import logging
import math
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI

from tandem.api.problems import refuse
from tandem.gateway.app import Source, World, create_app
from tandem.gateway.audit import JsonAudit
from tandem.gateway.discovery.file import FileSource
from tandem.gateway.fleet import FleetView
from tandem.gateway.lifecycle import Lifecycle
from tandem.gateway.settings import RouterSettings
from tandem.gateway.tracing import from_environment
from tandem_edge.heads import BoundedHeads
from tandem_edge.lines import JsonFormatter, time_of

BACKLOG = 2048
# Longer than the idle time of usual load balancers, so that it is they who close idle connections.
CLIENT_KEEP_ALIVE_SECONDS = 75
# What requests get after the grace to send their error event.
FAREWELL_SECONDS = 2.0

log = logging.getLogger(__name__)


def run(settings: RouterSettings) -> None:
    """Serves until SIGTERM or SIGINT and a drain; returns then. Raises Refused when the address cannot be had."""
    _log_as_json()
    lifecycle = Lifecycle()
    listener = bind(settings.host, settings.port)
    world = default_world(settings)
    app = create_app(settings, lifecycle=lifecycle, world=world)
    try:
        asyncio.run(_serve_until_signalled(app, settings, lifecycle=lifecycle, listener=listener))
    finally:
        world.spans.close()


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 takes a free one. Raises Refused."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise refuse("--host", host, f"is not an address ({error.strerror})", "Give an IP address or a name.") from None
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    _notice_gone_clients(listener)
    try:
        listener.bind(address)
        # From here on early clients wait for the application instead of being refused.
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRNOTAVAIL:
            reason = f"is no address of this machine ({error.strerror})"
            raise refuse("--host", host, reason, "Give one of its addresses, or 0.0.0.0 for all.") from None
        raise refuse("--port", port, f"cannot be used on {host} ({error.strerror})", "Choose another port.") from None
    return listener


def _notice_gone_clients(listener: socket.socket) -> None:
    """Connections of clients that have vanished, or take nothing of their answers, end after a minute."""
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", 30),
        ("TCP_KEEPINTVL", 10),
        ("TCP_KEEPCNT", 3),
        ("TCP_USER_TIMEOUT", 60_000),
    ):
        if hasattr(socket, name):
            listener.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def default_world(settings: RouterSettings) -> World:
    """Real time, real sources, audit lines on standard output, spans where the environment says."""
    audit = JsonAudit(emit=_print_line, stamp=lambda: time_of(time.time()))
    spans = from_environment(os.environ, deployment=settings.deployment)
    return World(audit=audit, spans=spans, source=lambda view, on_failure: make_source(settings, view, on_failure))


def make_source(settings: RouterSettings, view: FleetView, on_failure: Callable[[], None]) -> Source:
    """The source of workers that the settings name."""
    if settings.endpoints_file is not None:
        return FileSource(settings.endpoints_file, view, on_failure=on_failure, poll_seconds=settings.file_poll_seconds)
    # The Kubernetes client is a second of start-up and 30 MB that local mode does without.
    from tandem.gateway.discovery.follow import SliceFollower
    from tandem.gateway.discovery.kubernetes import KubernetesSlices

    assert settings.namespace is not None  # noqa: S101 - settings hold exactly one of the two
    api = KubernetesSlices(namespace=settings.namespace, deployment=settings.deployment)
    draw = random.Random().random  # noqa: S311 - spreads load
    return SliceFollower(api, view, on_failure=on_failure, sleep=asyncio.sleep, draw=draw)


async def _serve_until_signalled(
    app: FastAPI, settings: RouterSettings, *, lifecycle: Lifecycle, listener: socket.socket
) -> None:
    signals: asyncio.Queue[signal.Signals] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, signals.put_nowait, number)
    await serve(app, settings, lifecycle=lifecycle, listener=listener, signals=signals)


async def serve(
    app: FastAPI,
    settings: RouterSettings,
    *,
    lifecycle: Lifecycle,
    listener: socket.socket,
    signals: asyncio.Queue[signal.Signals],
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Serves on `listener` until something is put into `signals`, then drains.

    SIGTERM: /readyz says 503 at once, new requests are taken for `drain_seconds` more, then the listener closes
    and what runs may finish until `grace_seconds` are over. SIGINT skips the wait. A second signal ends the grace.
    """
    server = _Server(http_config(app, settings))
    host, port = listener.getsockname()[:2]
    log.info("the router of %s listens on %s:%d", settings.deployment, host, port)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    draining = asyncio.create_task(_drain_on_signal(server, settings, lifecycle, signals, sleep))
    await asyncio.wait((serving, draining), return_when=asyncio.FIRST_COMPLETED)
    try:
        await serving
    finally:
        draining.cancel()
        await asyncio.wait((draining,))


def http_config(app: FastAPI, settings: RouterSettings) -> uvicorn.Config:
    """How uvicorn is to serve the router."""
    return uvicorn.Config(
        app,
        http=BoundedHeads,
        access_log=False,
        log_config=None,
        server_header=False,
        lifespan="on",
        ws="none",
        backlog=BACKLOG,
        timeout_keep_alive=CLIENT_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=math.ceil(settings.grace_seconds + FAREWELL_SECONDS),
    )


async def _drain_on_signal(
    server: uvicorn.Server,
    settings: RouterSettings,
    lifecycle: Lifecycle,
    signals: asyncio.Queue[signal.Signals],
    sleep: Callable[[float], Awaitable[None]],
) -> None:
    first = await signals.get()
    lifecycle.drain()
    log.info("%s: draining, %d requests under way", first.name, lifecycle.running)
    ended = settings.grace_seconds
    hurry = asyncio.create_task(signals.get())
    if first is signal.SIGTERM:
        ended -= settings.drain_seconds
        await _either(sleep(settings.drain_seconds), hurry)
    server.should_exit = True
    log.info("the listener closes, %d requests under way", lifecycle.running)
    await _either(sleep(max(0.0, ended)), hurry)
    if lifecycle.running:
        log.warning("the grace is over: %d requests are ended", lifecycle.running)
    lifecycle.stop()
    hurry.cancel()


async def _either(pause: Awaitable[None], hurry: asyncio.Task[signal.Signals]) -> None:
    waiting = asyncio.ensure_future(pause)
    await asyncio.wait((waiting, hurry), return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers, which would raise the signal again and so end the process with -15."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _log_as_json() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.INFO)
    for noisy in ("uvicorn", "uvicorn.error", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def _print_line(line: str) -> None:
    sys.stdout.write(line)
    sys.stdout.flush()
