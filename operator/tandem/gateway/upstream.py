"""One leg: a request to one worker, up to the first byte that is worth passing on.

A whole answer is read to its end, a stream up to its first event, before anything is handed out; so whatever fails
until then can be tried elsewhere without the client noticing.
"""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import aiohttp
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from tandem.gateway.events import LONGEST_EVENT, EventSplitter, EventTooLong, error_of, is_comment_only
from tandem.gateway.fleet import Endpoint
from tandem.gateway.retry import Fault, Outcome

# uvicorn closes idle connections after 5 s; letting go first avoids the race at that moment.
IDLE_CONNECTION_SECONDS = 4.0
# A host that acknowledges nothing for this long is gone, although its connections still look open.
SILENT_HOST_MILLISECONDS = 10_000
log = logging.getLogger(__name__)
_UNREACHABLE = frozenset({errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN})


class LegFailed(Exception):
    """A leg brought nothing that could be passed on; `whole` is the worker's error answer when it gave one."""

    def __init__(self, outcome: Outcome, detail: str, whole: WholeAnswer | None = None) -> None:
        super().__init__(detail)
        self.outcome = outcome
        self.detail = detail
        self.whole = whole


class _Unusable(aiohttp.ClientPayloadError):
    """An answer came that cannot be passed on; its words are ours."""


@dataclass(frozen=True, slots=True)
class WholeAnswer:
    """An answer that is here to its last byte."""

    status: int
    headers: CIMultiDictProxy[str]
    content: bytes


@dataclass(frozen=True, slots=True)
class StreamAnswer:
    """A stream of server-sent events: `first` is here, `rest` yields more whole events and raises `StreamBroken`.

    `on_close` is called when the stream is over, or given up.
    """

    status: int
    headers: CIMultiDictProxy[str]
    first: bytes
    rest: AsyncIterator[bytes]
    response: aiohttp.ClientResponse
    on_close: Callable[[], None] = lambda: None

    def close(self) -> None:
        """Ends the request at the worker when it is not at its end."""
        self.response.close()
        self.on_close()


Answer = WholeAnswer | StreamAnswer


class StreamBroken(Exception):
    """A stream ended before its end."""


@dataclass(frozen=True, slots=True)
class Leg:
    """A request to a worker; `seconds` bounds what comes before a stream's second event, or a whole answer."""

    endpoint: Endpoint
    method: str
    path: str
    headers: CIMultiDict[str]
    content: bytes | None
    seconds: float


class Upstream:
    """The connections to all workers."""

    def __init__(self, *, connect_seconds: float, idle_seconds: float, max_answer_bytes: int) -> None:
        """Needs a running event loop. `idle_seconds` bounds the silence between two chunks of a stream."""
        self._idle_seconds = idle_seconds
        self._max_answer_bytes = max_answer_bytes
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0, limit_per_host=0, keepalive_timeout=IDLE_CONNECTION_SECONDS, socket_factory=_worker_socket
            ),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=connect_seconds),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            skip_auto_headers=("User-Agent",),
            max_line_size=32768,
            max_field_size=65536,
        )

    async def close(self) -> None:
        """Closes every connection."""
        await self._session.close()

    async def send(self, leg: Leg) -> Answer:
        """The worker's answer if its status is below 400, else raises LegFailed.

        Cancelling it ends the request at the worker.
        """
        response: aiohttp.ClientResponse | None = None
        answer: Answer | None = None
        try:
            async with asyncio.timeout(leg.seconds):
                response = await self._session.request(
                    leg.method,
                    # As it came: a path that is normalised here could leave its route.
                    URL(leg.endpoint.url + leg.path, encoded=True),
                    data=leg.content,
                    headers=leg.headers,
                    allow_redirects=False,
                )
                if not 200 <= response.status < 600:
                    # Nobody can be answered so: 101 asks for another protocol, 999 is no status.
                    raise _Unusable(f"the worker answered with status {response.status}")
                if response.status >= 400 or response.content_type != "text/event-stream":
                    answer = WholeAnswer(response.status, response.headers, await self._read_whole(response))
                else:
                    answer = await self._open_stream(response)
        except TimeoutError as error:
            raise _timed_out(error) from None
        except (aiohttp.ClientError, OSError, EventTooLong) as error:
            log.info("%s: %s: %s", leg.endpoint.name, type(error).__name__, error)
            raise LegFailed(_outcome_of(error), _words(error)) from None
        finally:
            if response is not None and answer is None:
                response.close()
        return _checked(answer)

    async def discard(self, method: str, url: str, *, headers: Mapping[str, str], seconds: float) -> None:
        """Sends a request whose answer does not matter. Never raises for what the worker does."""
        with suppress(TimeoutError, aiohttp.ClientError, OSError):
            request = self._session.request(method, URL(url, encoded=True), headers=headers, allow_redirects=False)
            async with asyncio.timeout(seconds), request:
                pass

    async def _read_whole(self, response: aiohttp.ClientResponse) -> bytes:
        declared = response.content_length or 0
        if declared > self._max_answer_bytes:
            raise _Unusable(f"the answer is larger than {self._max_answer_bytes} bytes")
        chunks: list[bytes] = []
        size = 0
        async for chunk in response.content.iter_any():
            size += len(chunk)
            if size > self._max_answer_bytes:
                raise _Unusable(f"the answer is larger than {self._max_answer_bytes} bytes")
            chunks.append(chunk)
        return b"".join(chunks)

    async def _open_stream(self, response: aiohttp.ClientResponse) -> Answer:
        splitter = EventSplitter()
        first = events = b""
        while is_comment_only(events):
            chunk = await response.content.readany()
            if not chunk:
                raise _Unusable("the stream ended before its first event")
            events = splitter.feed(chunk)
            first += events
            if len(first) > LONGEST_EVENT:
                raise EventTooLong(f"what comes before and with the first event is larger than {LONGEST_EVENT} bytes")
        if (error := error_of(first)) is not None:
            response.close()
            headers = CIMultiDict(response.headers)
            headers["Content-Type"] = "application/json"
            return WholeAnswer(error.status, CIMultiDictProxy(headers), error.content)
        return StreamAnswer(response.status, response.headers, first, self._rest(response, splitter), response)

    async def _rest(self, response: aiohttp.ClientResponse, splitter: EventSplitter) -> AsyncIterator[bytes]:
        content = response.content
        while True:
            try:
                async with asyncio.timeout(self._idle_seconds):
                    chunk = await content.readany()
            except TimeoutError:
                raise StreamBroken(f"the worker fell silent for {self._idle_seconds:g} s") from None
            except aiohttp.ClientPayloadError:
                raise StreamBroken("the worker's answer broke off") from None
            except (aiohttp.ClientError, OSError) as error:
                log.info("a stream broke: %s: %s", type(error).__name__, error)
                raise StreamBroken("the connection to the worker broke") from None
            if not chunk:
                if splitter.pending:
                    raise StreamBroken("the worker's stream ended inside an event")
                return
            try:
                events = splitter.feed(chunk)
            except EventTooLong as error:
                raise StreamBroken(f"in the worker's stream {error}") from None
            if events:
                yield events


def _checked(answer: Answer) -> Answer:
    if answer.status < 400:
        return answer
    assert isinstance(answer, WholeAnswer)  # noqa: S101 - streams have a status below 400
    said = answer.headers.get("x-should-retry", "").lower()
    outcome = Outcome(Fault.STATUS, answer.status, {"true": True, "false": False}.get(said))
    raise LegFailed(outcome, f"answered {answer.status}", answer)


def _timed_out(error: TimeoutError) -> LegFailed:
    # aiohttp's connection time-out and the kernel's are of this class too, but say what they are.
    if isinstance(error, aiohttp.ClientError) or error.errno in _UNREACHABLE:
        return LegFailed(Outcome(Fault.CONNECT), "no connection in time")
    return LegFailed(Outcome(Fault.TIMEOUT), "no answer in time")


def _outcome_of(error: Exception) -> Outcome:
    refused = isinstance(error, aiohttp.ClientConnectorError)
    silent = isinstance(error, OSError) and error.errno in _UNREACHABLE
    return Outcome(Fault.CONNECT if refused or silent else Fault.RESET)


def _words(error: Exception) -> str:
    """What clients are told: nothing of addresses, nor of what the HTTP library says."""
    if isinstance(error, _Unusable | EventTooLong):
        return str(error)
    return "no connection" if _outcome_of(error).fault is Fault.CONNECT else "the connection broke before the answer"


def _worker_socket(address: Any) -> socket.socket:
    family, kind, protocol, _, _ = address
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_USER_TIMEOUT", SILENT_HOST_MILLISECONDS),
        ("TCP_KEEPIDLE", 5),
        ("TCP_KEEPINTVL", 2),
        ("TCP_KEEPCNT", 3),
    ):
        if hasattr(socket, name):
            made.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return made


def parse_answer(content: bytes) -> Any:
    """The JSON of a whole answer; None when it is not JSON."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None
