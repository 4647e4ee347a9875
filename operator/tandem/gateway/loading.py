"""What workers tell of themselves: how much of their weights those have loaded that are not ready yet, and which decode
workers cannot take KV of their prefill workers; asked of them when somebody asks here.

The operator learns it this way: it may reach the router, and only the router may reach the workers.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass

import aiohttp

from tandem.gateway.fleet import Endpoint, FleetView, Role

ASK_SECONDS = 1.0
# Many askers cost the workers no more than one.
FRESH_SECONDS = 1.0
MOST_WORKERS = 64
MOST_AT_A_TIME = 16
MOST_BYTES = 4096


@dataclass(frozen=True, slots=True)
class WorkerLoading:
    """Bytes of weights that a worker has loaded, and has to load."""

    name: str
    role: str
    revision: str
    loaded_bytes: int
    total_bytes: int


@dataclass(frozen=True, slots=True)
class RefusedHandoff:
    """A decode worker that prefill workers do not fit: their version, model or number type is another one."""

    name: str
    revision: str
    reason: str
    message: str


class LoadingBoard:
    """Answers `GET /loading`. Needs a running event loop; close it in the end."""

    def __init__(self, view: FleetView, clock: Callable[[], float]) -> None:
        self._view = view
        self._clock = clock
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(force_close=True, limit=MOST_AT_A_TIME),
            timeout=aiohttp.ClientTimeout(total=None),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
        )
        self._lock = asyncio.Lock()
        self._known: tuple[WorkerLoading | RefusedHandoff, ...] = ()
        self._asked_at: float | None = None

    async def close(self) -> None:
        """Closes every connection."""
        await self._session.close()

    async def document(self) -> bytes:
        """`{"workers": [{"name", "role", "revision", "loaded_bytes", "total_bytes"}], "refused_handoffs": [{"name",
        "revision", "reason", "message"}]}`; only workers that tell.
        """
        async with self._lock:
            now = self._clock()
            if self._asked_at is None or now - self._asked_at >= FRESH_SECONDS:
                self._known = await self._ask_all()
                self._asked_at = self._clock()
        workers = [asdict(told) for told in self._known if isinstance(told, WorkerLoading)]
        refused = [asdict(told) for told in self._known if isinstance(told, RefusedHandoff)]
        return json.dumps({"workers": workers, "refused_handoffs": refused}).encode()

    async def _ask_all(self) -> tuple[WorkerLoading | RefusedHandoff, ...]:
        endpoints = self._view.fleet.endpoints
        asked = [endpoint for endpoint in endpoints if not endpoint.ready][:MOST_WORKERS]
        asked += [endpoint for endpoint in endpoints if endpoint.ready and endpoint.role is Role.DECODE][:MOST_WORKERS]
        found = await asyncio.gather(*(self._ask(endpoint) for endpoint in asked))
        return tuple(told for told in found if told is not None)

    async def _ask(self, endpoint: Endpoint) -> WorkerLoading | RefusedHandoff | None:
        """What the worker's `/health` says; None when it says neither."""
        with suppress(aiohttp.ClientError, OSError, TimeoutError, ValueError, KeyError, TypeError):
            async with asyncio.timeout(ASK_SECONDS):
                async with self._session.get(f"{endpoint.url}/health", allow_redirects=False) as response:
                    body = bytearray()
                    async for chunk in response.content.iter_chunked(MOST_BYTES):
                        body += chunk
                        if len(body) > MOST_BYTES:
                            return None
            fields = json.loads(body)
            if endpoint.ready:
                refused = fields["refused_handoff"]
                return RefusedHandoff(
                    endpoint.name, endpoint.revision, str(refused["reason"])[:64], str(refused["message"])[:512]
                )
            loaded, total = int(fields["loaded_bytes"]), int(fields["total_bytes"])
            if 0 <= loaded <= total and total > 0:
                return WorkerLoading(endpoint.name, endpoint.role, endpoint.revision, loaded, total)
        return None
