"""A decode worker fetches KV from a prefill worker, once the sequence has its memory.

What can go wrong ends in a local prefill, with a reason for the metrics; wrong bytes are never taken over.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Protocol

import aiohttp

from tandem_serve.engine.kv_cache import KvLayout, SequenceKv
from tandem_serve.engine.transfer import wire
from tandem_serve.engine.transfer.wire import KvIdentity, KvMessage, KvRefusedError
from tandem_serve.engine.types import RemoteKv, SequenceRequest, Update

log = logging.getLogger(__name__)
_STALL_SECONDS = 5.0


class Adopter(Protocol):
    """What the puller needs of the engine."""

    def adopt(self, seq_id: int, copy_into: Callable[[SequenceKv, int], None]) -> None:
        """Takes over KV."""

    def prefill_locally(self, seq_id: int) -> None:
        """Goes on without."""


class PullMetrics(Protocol):
    """What the puller counts."""

    def kv_moved(self, direction: str, *, tokens: int, nbytes: int) -> None:
        """A hand-off came."""

    def kv_failed(self, reason: str) -> None:
        """One did not."""

    def fell_back(self) -> None:
        """A prompt is prefilled here."""


@dataclass
class _Pull:
    """One fetch, shared by the copies (`n`) of a prompt."""

    task: asyncio.Task[KvMessage]
    left: int
    handed: set[int] = field(default_factory=set)


class KvPuller:
    """Fetches for the sequences of one engine; belongs to one event loop."""

    def __init__(
        self,
        *,
        session: aiohttp.ClientSession,
        engine: Adopter,
        metrics: PullMetrics,
        who: KvIdentity,
        layout: KvLayout,
        timeout: float,
    ) -> None:
        self._session = session
        self._engine = engine
        self._metrics = metrics
        self._who = who
        self._layout = layout
        self._timeout = aiohttp.ClientTimeout(total=timeout, sock_connect=2.0, sock_read=_STALL_SECONDS)
        self._pulls: dict[str, _Pull] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def on_update(self, request: SequenceRequest, update: Update) -> None:
        """Follows the news of every sequence: begins when memory is there, gives up when the sequence ends."""
        remote = request.remote
        if remote is None:
            return
        if update.started and update.finish is None:
            self._spawn(self._serve(request, remote, self._entry(request, remote)))
        elif update.finish is not None:
            entry = self._pulls.get(remote.kv_id)
            if entry is not None and request.seq_id not in entry.handed:
                self._one_less(remote, entry, request.seq_id)

    async def close(self) -> None:
        """Ends all fetches."""
        for task in (*(pull.task for pull in self._pulls.values()), *self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _entry(self, request: SequenceRequest, remote: RemoteKv) -> _Pull:
        entry = self._pulls.get(remote.kv_id)
        if entry is None:
            task = asyncio.ensure_future(self._fetch(remote, request.prompt))
            entry = self._pulls[remote.kv_id] = _Pull(task, left=remote.copies)
        return entry

    async def _serve(self, request: SequenceRequest, remote: RemoteKv, entry: _Pull) -> None:
        try:
            message = await asyncio.shield(entry.task)
        except KvRefusedError as error:
            log.warning(
                "the KV could not be taken over; prefilling here",
                extra={"request_id": request.request_id, "reason": error.reason, "detail": str(error)},
            )
            self._metrics.fell_back()
            self._engine.prefill_locally(request.seq_id)
        else:
            self._engine.adopt(request.seq_id, message.copy_into)
        if request.seq_id not in entry.handed:
            self._one_less(remote, entry, request.seq_id)

    def _one_less(self, remote: RemoteKv, entry: _Pull, seq_id: int) -> None:
        entry.handed.add(seq_id)
        entry.left -= 1
        if entry.left > 0:
            return
        self._pulls.pop(remote.kv_id, None)
        entry.task.cancel()
        self._spawn(self._free(remote))

    async def _fetch(self, remote: RemoteKv, prompt: tuple[int, ...]) -> KvMessage:
        try:
            message = await self._download(remote, prompt)
        except KvRefusedError as error:
            self._metrics.kv_failed(error.reason)
            raise
        except Exception as error:  # whatever it is, the sequence must go on
            log.exception("a pull failed in an unforeseen way")
            self._metrics.kv_failed("internal")
            raise KvRefusedError("internal", type(error).__name__) from error
        self._metrics.kv_moved("received", tokens=message.tokens, nbytes=len(message.data))
        return message

    async def _download(self, remote: RemoteKv, prompt: tuple[int, ...]) -> KvMessage:
        try:
            async with self._session.get(_url(remote), timeout=self._timeout) as answer:
                if answer.status != 200:
                    reason = "gone" if answer.status == 404 else "status"
                    raise KvRefusedError(reason, f"the prefill worker answered {answer.status}")
                buffer, digest = await self._read(answer, prompt)
        except TimeoutError as error:
            raise KvRefusedError("timeout", f"{remote.host}:{remote.port} is too slow") from error
        except aiohttp.ClientPayloadError as error:
            raise KvRefusedError("cut", str(error)) from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise KvRefusedError("connect", str(error)) from error
        return wire.decode(buffer, digest=digest, want=self._who, layout=self._layout, prompt=prompt)

    async def _read(self, answer: aiohttp.ClientResponse, prompt: tuple[int, ...]) -> tuple[bytearray, bytes]:
        """Reads the announced bytes into one buffer; the hash is computed on the way."""
        size = answer.content_length or 0
        most = wire.expected_bytes(self._layout, len(prompt)) + wire.MAX_HEADER_BYTES
        if not wire.TRAILER_BYTES < size <= most:
            raise KvRefusedError("size", f"{size} bytes announced, at most {most} wanted")
        buffer, hasher, place = bytearray(size), hashlib.sha256(), 0
        hashed = size - wire.TRAILER_BYTES
        async for chunk in answer.content.iter_any():
            end = place + len(chunk)
            if end > size:
                raise KvRefusedError("size", "more bytes came than were announced")
            buffer[place:end] = chunk
            if place < hashed:
                hasher.update(chunk if end <= hashed else memoryview(chunk)[: hashed - place])
            place = end
        if place != size:
            raise KvRefusedError("cut", f"{place} of {size} bytes came")
        return buffer, hasher.digest()

    async def _free(self, remote: RemoteKv) -> None:
        try:
            async with self._session.delete(_url(remote), timeout=self._timeout):
                pass
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            log.debug("the prefill worker could not be told to free its KV", extra={"detail": str(error)})

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _url(remote: RemoteKv) -> str:
    host = f"[{remote.host}]" if ":" in remote.host else remote.host
    return f"http://{host}:{remote.port}/kv/{remote.kv_id}"
