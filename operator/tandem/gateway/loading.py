"""How much of their weights the workers have loaded that are not ready yet; asked of them when somebody asks here.

The operator learns it this way: it may reach the router, and only the router may reach the workers.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass

import aiohttp

from tandem.gateway.fleet import Endpoint, FleetView

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
        self._known: tuple[WorkerLoading, ...] = ()
        self._asked_at: float | None = None

    async def close(self) -> None:
        """Closes every connection."""
        await self._session.close()

    async def document(self) -> bytes:
        """`{"workers": [{"name", "role", "revision", "loaded_bytes", "total_bytes"}]}`; only workers that tell."""
        async with self._lock:
            now = self._clock()
            if self._asked_at is None or now - self._asked_at >= FRESH_SECONDS:
                self._known = await self._ask_all()
                self._asked_at = self._clock()
        return json.dumps({"workers": [asdict(worker) for worker in self._known]}).encode()

    async def _ask_all(self) -> tuple[WorkerLoading, ...]:
        unready = [endpoint for endpoint in self._view.fleet.endpoints if not endpoint.ready]
        found = await asyncio.gather(*(self._ask(endpoint) for endpoint in unready[:MOST_WORKERS]))
        return tuple(worker for worker in found if worker is not None)

    async def _ask(self, endpoint: Endpoint) -> WorkerLoading | None:
        """What the worker's `/health` says; None when it does not say how far it is."""
        with suppress(aiohttp.ClientError, OSError, TimeoutError, ValueError, KeyError, TypeError):
            async with asyncio.timeout(ASK_SECONDS):
                async with self._session.get(f"{endpoint.url}/health", allow_redirects=False) as response:
                    body = bytearray()
                    async for chunk in response.content.iter_chunked(MOST_BYTES):
                        body += chunk
                        if len(body) > MOST_BYTES:
                            return None
            fields = json.loads(body)
            loaded, total = int(fields["loaded_bytes"]), int(fields["total_bytes"])
            if 0 <= loaded <= total and total > 0:
                return WorkerLoading(endpoint.name, endpoint.role, endpoint.revision, loaded, total)
        return None
