"""Something between the operator and the API server that answers in its place, slows it down, or cuts connections."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ssl
import tempfile
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
import yaml
from aiohttp import web

Fault = Callable[[web.Request], Awaitable[web.StreamResponse | None]]
"""Answers a request, or does something else first and lets the API server answer (None)."""


async def _none(_: web.Request) -> None:
    return None


def is_watch(request: web.Request) -> bool:
    """Whether it asks for a stream of events."""
    return request.query.get("watch") == "true"


def answers(status: int, *, reason: str = "", **headers: str) -> Fault:
    """Every request gets this answer, as the API server words it."""

    async def fault(_: web.Request) -> web.Response:
        document = {"kind": "Status", "apiVersion": "v1", "code": status, "reason": reason, "message": f"made {status}"}
        return web.json_response(
            document, status=status, headers={key.replace("_", "-"): v for key, v in headers.items()}
        )

    return fault


class Proxy:
    """Serves HTTP on loopback and asks the API server as the user of `kubeconfig`. `fault` may be changed any time."""

    def __init__(self, kubeconfig: Path) -> None:
        config = yaml.safe_load(kubeconfig.read_text())
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        self._server: str = cluster["server"]
        self._tls = ssl.create_default_context(cadata=base64.b64decode(cluster["certificate-authority-data"]).decode())
        with tempfile.NamedTemporaryFile() as pem:
            for field in ("client-certificate-data", "client-key-data"):
                pem.write(base64.b64decode(user[field]) + b"\n")
            pem.flush()
            self._tls.load_cert_chain(pem.name)
        self.fault: Fault = _none
        self.seen: Counter[str] = Counter()
        self._open: set[asyncio.Transport] = set()
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="proxy", daemon=True)

    def __enter__(self) -> Proxy:
        self._thread.start()
        assert self._started.wait(10), "the proxy has not started"
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(timeout=20)

    def kubeconfig(self, path: Path) -> Path:
        """Writes a kubeconfig that leads here; returns its path."""
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{self.port}"}}],
            "users": [{"name": "u", "user": {"token": "known to nobody"}}],
        }
        path.write_text(yaml.safe_dump(document))
        return path

    def heal(self) -> None:
        """Lets everything through again."""
        self.fault = _none

    def cut(self) -> None:
        """Breaks all connections at once."""

        def abort() -> None:
            for transport in tuple(self._open):
                transport.abort()

        self._loop.call_soon_threadsafe(abort)

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        application = web.Application(client_max_size=2**25)
        application.router.add_route("*", "/{path:.*}", self._handle)
        runner = web.AppRunner(application, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=self._tls), auto_decompress=False, read_bufsize=2**22
        ) as self._session:
            try:
                site = web.TCPSite(runner, "127.0.0.1", 0)
                await site.start()
                self.port = int(runner.addresses[0][1])
                self._started.set()
                await self._stop.wait()
            finally:
                await runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.seen["watch" if is_watch(request) else request.method] += 1
        transport = request.transport
        if isinstance(transport, asyncio.Transport):
            self._open.add(transport)
            self._open = {known for known in self._open if not known.is_closing()}
        answer = await self.fault(request)
        return answer if answer is not None else await self._pass_on(request)

    async def _pass_on(self, request: web.Request) -> web.StreamResponse:
        kept = ("Accept", "Content-Type", "User-Agent")
        headers = {name: request.headers[name] for name in kept if name in request.headers}
        timeout = aiohttp.ClientTimeout(total=None)
        url, body = self._server + request.raw_path, await request.read()
        async with self._session.request(
            request.method, url, headers=headers, data=body or None, timeout=timeout
        ) as upstream:
            response = web.StreamResponse(status=upstream.status)
            response.content_type = upstream.content_type
            await response.prepare(request)
            with contextlib.suppress(ConnectionError):
                async for chunk in upstream.content.iter_any():
                    await response.write(chunk)
                await response.write_eof()
            return response
