"""What workers tell of themselves, asked of the deployment's router: how far starting ones have loaded their weights,
and which decode workers take no KV of their prefill workers.

Workers hear nobody but the router, so the operator needs no way to them: the router asks, and the operator asks it. A
question never holds up a reconcile; an answer that changes what is shown asks for the next one.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Coroutine, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol

import aiohttp

from tandem.api.handoff import Refusal, read_refusals
from tandem.kube.cache import Ref
from tandem.kube.clock import Clock
from tandem.manifests import names

logger = logging.getLogger(__name__)

Document = Mapping[str, Any]

EVERY_SECONDS = 5.0
# Backends that do not tell are asked ever more rarely.
LONGEST_SECONDS = 20.0
# While nothing loads: only whether KV is refused.
QUIET_SECONDS = 60.0
ANSWER_SECONDS = 3.0
# One answer that did not come in time is no reason to take back what was told.
FORGOTTEN_AFTER = 3
MOST_AT_A_TIME = 8
MOST_BYTES = 64 * 1024
PATH = "/loading"
_UNITS = (("GB", 10**9), ("MB", 10**6), ("kB", 10**3))


@dataclass(frozen=True, slots=True)
class Loading:
    """Bytes of weights that a worker has loaded, and has to load."""

    loaded: int
    total: int

    def __str__(self) -> str:
        unit, scale = next((pair for pair in _UNITS if self.total >= pair[1]), _UNITS[-1])
        return f"{self.loaded / scale:.1f}/{self.total / scale:.1f} {unit}"


@dataclass(frozen=True, slots=True)
class Told:
    """What a router tells of its workers: how far loading ones are, by pod name, and who refuses KV; None when it does
    not tell."""

    loading: Mapping[str, Loading] = field(default_factory=dict)
    refusals: tuple[Refusal, ...] | None = None

    def shows_as(self, other: Told) -> bool:
        """Whether nobody would see a difference."""
        mine, others = ({name: str(value) for name, value in told.loading.items()} for told in (self, other))
        return mine == others and self.refusals == other.refusals


class Source(Protocol):
    """Where it comes from."""

    async def ask(self, address: str) -> Told:
        """What the router at that IP address tells. Never raises."""


class RouterSource:
    """Asks routers over HTTP; use as an asynchronous context manager."""

    def __init__(self, *, port: int = names.HTTP_PORT) -> None:
        self._port = port

    async def __aenter__(self) -> RouterSource:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(force_close=True, limit=MOST_AT_A_TIME),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def ask(self, address: str) -> Told:
        """See `Source`."""
        host = f"[{address}]" if ":" in address else address
        url = f"http://{host}:{self._port}{PATH}"
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                async with self._session.get(url, allow_redirects=False) as response:
                    body = bytearray()
                    async for chunk in response.content.iter_chunked(MOST_BYTES):
                        body += chunk
                        if len(body) > MOST_BYTES:
                            return Told()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            logger.debug("%s tells nothing of its workers: %r", url, error)
            return Told()
        return read_answer(bytes(body)) if response.status == 200 else Told()


def read_answer(body: bytes) -> Told:
    """What a router answers; what is not understood is left out."""
    try:
        answer = json.loads(body)
    except ValueError:
        return Told()
    found: dict[str, Loading] = {}
    with suppress(ValueError, KeyError, TypeError):
        for worker in answer["workers"]:
            loaded, total = int(worker["loaded_bytes"]), int(worker["total_bytes"])
            if 0 <= loaded <= total and total > 0:
                found[str(worker["name"])] = Loading(loaded, total)
    return Told(found, read_refusals(answer))


def is_loading(pod: Document) -> bool:
    """Whether a pod's server runs and has not passed its startup probe."""
    if pod["metadata"].get("deletionTimestamp"):
        return False
    return any(
        container["name"] == names.WORKER_CONTAINER
        and "running" in (container.get("state") or {})
        and not container.get("started", True)
        for container in pod["status"].get("containerStatuses") or ()
    )


def behind(pods: Iterable[Document], known: Mapping[str, Loading]) -> Loading | None:
    """Of the loading ones among `pods`, how far the one is that has most to go; None when none tells."""
    told = [known[name] for pod in pods if (name := pod["metadata"]["name"]) in known and is_loading(pod)]
    return min(told, key=lambda loading: loading.loaded / loading.total, default=None)


class LoadingReader:
    """Follows what workers tell, for as long as the context lasts. `changed` hears when there is news to show."""

    def __init__(self, source: Source, clock: Clock, *, changed: Callable[[Ref], None]) -> None:
        self._source = source
        self._clock = clock
        self._changed = changed
        self._gate = asyncio.Semaphore(MOST_AT_A_TIME)
        self._watched: dict[Ref, _Watched] = {}
        self._asking: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> LoadingReader:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._asking:
            task.cancel()
        await asyncio.gather(*self._asking, return_exceptions=True)

    def known(self, owner: Ref) -> Told:
        """What was last heard of the workers of `owner`."""
        watched = self._watched.get(owner)
        return watched.known if watched else Told()

    def look(
        self, owner: Ref, *, workers: Iterable[Document], routers: Iterable[Document], hands_off: bool
    ) -> float | None:
        """Asks if that is due, without waiting for the answer; returns the seconds until it is due again.

        `hands_off`: decode workers may refuse KV. While nothing loads that is asked for now and then without a look.
        """
        loads = any(is_loading(pod) for pod in workers)
        if not loads and not hands_off:
            self.forget(owner)
            return None
        address = next((found for pod in routers if (found := _address(pod))), None)
        if address is None:
            # When a router is ready we are called again.
            return None
        now = self._clock.monotonic()
        watched = self._watched.setdefault(owner, _Watched(due=now))
        watched.address = address
        if not loads:
            watched.quiet = watched.quiet or self._start(owner, self._ask_now_and_then(owner, watched))
            return None
        if watched.quiet is not None:
            watched.quiet.cancel()
            watched.quiet, watched.due, watched.misses = None, now, 0
        if now >= watched.due:
            watched.due = now + min(EVERY_SECONDS * 2.0**watched.misses, LONGEST_SECONDS)
            self._start(owner, self._ask(owner, watched))
        return watched.due - now

    def forget(self, owner: Ref) -> None:
        """Drops what is remembered of an owner."""
        watched = self._watched.pop(owner, None)
        if watched is not None and watched.quiet is not None:
            watched.quiet.cancel()

    def _start(self, owner: Ref, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=f"loading of {owner}")
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)
        return task

    async def _ask_now_and_then(self, owner: Ref, watched: _Watched) -> None:
        while True:
            await self._ask(owner, watched)
            await self._clock.sleep(QUIET_SECONDS)

    async def _ask(self, owner: Ref, watched: _Watched) -> None:
        async with self._gate:
            told = await self._source.ask(watched.address)
        before = watched.known
        watched.learn(told)
        if not watched.known.shows_as(before) and self._watched.get(owner) is watched:
            self._changed(owner)


@dataclass
class _Watched:
    due: float
    address: str = ""
    quiet: asyncio.Task[None] | None = None
    misses: int = 0
    fitting: int = 0
    known: Told = field(default_factory=Told)

    def learn(self, told: Told) -> None:
        """Takes in an answer. A decode worker tells of its last offer only, and the next one may not fit again: what it
        refused is forgotten after some answers."""
        loading, refusals = self.known.loading, self.known.refusals
        self.misses = 0 if told.loading else self.misses + 1
        if not 0 < self.misses < FORGOTTEN_AFTER:
            loading = told.loading
        if told.refusals is not None:
            self.fitting = 0 if told.refusals else self.fitting + 1
            if not refusals or not 0 < self.fitting < FORGOTTEN_AFTER:
                refusals = told.refusals
        self.known = Told(loading, refusals)


def _address(pod: Document) -> str:
    """The IP address of a router that answers; empty for others."""
    if pod["metadata"].get("deletionTimestamp"):
        return ""
    ready = any(
        condition["type"] == "Ready" and condition["status"] == "True"
        for condition in pod["status"].get("conditions") or ()
    )
    return str(pod["status"].get("podIP", "")) if ready else ""
