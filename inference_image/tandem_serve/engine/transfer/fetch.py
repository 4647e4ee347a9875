"""One download of KV, segment by segment; everything in it is checked before it is handed on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import numpy as np

from tandem_serve.engine.kv_cache import KvLayout
from tandem_serve.engine.transfer import identity, wire
from tandem_serve.engine.transfer.identity import TOKEN_HEADER, KvIdentity, KvRefusedError, Proof
from tandem_serve.engine.transfer.wire import KvPart
from tandem_serve.engine.types import RemoteKv

READ_AHEAD_BYTES = 2 * wire.SEGMENT_BYTES
_STATUS = {403: "token", 404: "gone"}


class Source:
    """Prefill workers, as seen from one decode worker.

    `timeout` bounds one download, in seconds, from the last word that prefill still computes; within `stall_seconds`
    something must come.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        *,
        who: KvIdentity,
        layout: KvLayout,
        timeout: float,
        stall_seconds: float,
    ) -> None:
        self._session = session
        self._who = who
        self._layout = layout
        self._seconds = timeout
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=min(2.0, timeout), sock_read=stall_seconds)
        self._short = aiohttp.ClientTimeout(total=min(timeout, stall_seconds))

    async def parts(self, remote: RemoteKv, prompt: tuple[int, ...], first: int) -> AsyncIterator[KvPart]:
        """The KV of all but the last token of the prompt, from token `first`, as it is computed.

        Raises `KvRefusedError`.
        """
        options = {"headers": _shown(remote), "timeout": self._timeout, "read_bufsize": READ_AHEAD_BYTES}
        try:
            url = f"{_url(remote)}?first={first}"
            async with self._session.get(url, allow_redirects=False, **options) as answer:  # type: ignore[arg-type]
                if answer.status != 200:
                    reason = _STATUS.get(answer.status, "status")
                    raise KvRefusedError(reason, f"the prefill worker answered {answer.status}")
                async for part in self._read(answer, remote, prompt, first):
                    yield part
        except TimeoutError as error:
            raise KvRefusedError("timeout", f"{remote.host}:{remote.port} is too slow") from error
        except aiohttp.ClientPayloadError as error:
            raise KvRefusedError("cut", str(error)) from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise KvRefusedError("connect", str(error)) from error

    async def renew(self, remote: RemoteKv) -> bool:
        """Tells the prefill worker that its KV is still wanted; False when it does not have it any more."""
        return await self._tell("POST", f"{_url(remote)}/lease", remote) not in _STATUS

    async def free(self, remote: RemoteKv) -> None:
        """Tells the prefill worker that its KV is not wanted any more."""
        await self._tell("DELETE", _url(remote), remote)

    async def _tell(self, method: str, url: str, remote: RemoteKv) -> int | None:
        try:
            async with self._session.request(
                method, url, headers=_shown(remote), timeout=self._short, allow_redirects=False
            ) as answer:
                return answer.status
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
            return None

    async def _read(
        self, answer: aiohttp.ClientResponse, remote: RemoteKv, prompt: tuple[int, ...], first: int
    ) -> AsyncIterator[KvPart]:
        expected = identity.encode_header(self._who, prompt=prompt, first=first)
        body = _Body(answer.content, seconds=self._seconds)
        start = await body.take(8)
        rest = identity.header_length(start) - len(start)
        identity.check_header(start + await body.take(rest), expected)
        proof = Proof(remote.token, expected)
        for token, count in wire.segments(self._layout, first, len(prompt) - 1):
            data = np.empty(self._layout.bytes_per_token * count, dtype=np.uint8)
            await _check_length(body, data.nbytes)
            await body.fill(data.data)
            mac = await body.take(identity.MAC_BYTES)
            proof.check(data.data, mac, first=token)
            yield KvPart(first=token, count=count, data=data, layout=self._layout)


async def _check_length(body: _Body, wanted: int) -> None:
    """Waits until a segment is computed. Raises `KvRefusedError` when it never will be, or is of another length."""
    while (head := await body.take(identity.LENGTH.size)) == identity.NOT_YET:
        body.begin_anew()
    if head == identity.NEVER:
        raise KvRefusedError("ended", "the prefill worker does not compute this prompt any more")
    (length,) = identity.LENGTH.unpack(head)
    if length != wanted:
        raise KvRefusedError("size", f"a segment of {length} bytes, {wanted} wanted")


class _Body:
    """The bytes of an answer, in the portions that are wanted, within `seconds`."""

    def __init__(self, content: aiohttp.StreamReader, *, seconds: float) -> None:
        self._content = content
        self._seconds = seconds
        self._rest = memoryview(b"")
        self._clock = asyncio.get_running_loop().time
        self.begin_anew()

    def begin_anew(self) -> None:
        """The time begins now."""
        self._ends = self._clock() + self._seconds

    async def fill(self, target: memoryview) -> None:
        """Fills `target`. Raises `KvRefusedError` when the answer ends before."""
        place = 0
        while place < len(target):
            if not self._rest:
                self._rest = memoryview(await self._content.readany())
                if not self._rest:
                    raise KvRefusedError("cut", "the answer ended early")
                if self._clock() > self._ends:
                    raise TimeoutError
            count = min(len(self._rest), len(target) - place)
            target[place : place + count] = self._rest[:count]
            self._rest = self._rest[count:]
            place += count

    async def take(self, count: int) -> bytes:
        """The next `count` bytes."""
        taken = bytearray(count)
        await self.fill(memoryview(taken))
        return bytes(taken)


def _shown(remote: RemoteKv) -> dict[str, str]:
    return {TOKEN_HEADER: remote.token}


def _url(remote: RemoteKv) -> str:
    host = f"[{remote.host}]" if ":" in remote.host else remote.host
    return f"http://{host}:{remote.port}/kv/{remote.kv_id}"
