"""Reads a request's body, no larger than agreed, and understands it as a JSON object or says where it is not one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from starlette.types import Receive, Scope

from tandem.gateway.errors import HttpError, bad_request, too_large, too_many_bodies, two_lengths
from tandem.gateway.protocol import Body, encode, strip

DISCARD_SECONDS = 5.0


class ClientGone(Exception):
    """The client closed the connection before its request was complete."""


@dataclass(frozen=True, slots=True)
class RequestBody:
    """A body as sent (`raw`) and as understood; neither holds what only the router may say (`stripped` names it)."""

    raw: bytes
    fields: Body
    stripped: tuple[str, ...] = ()

    @property
    def streams(self) -> bool:
        """Whether the client asked for a stream."""
        return self.fields.get("stream") is True


class Room:
    """How many bytes of bodies all requests may hold together: one is kept until its request is over, for retries."""

    def __init__(self, size: int, *, retry_after: int) -> None:
        self._left = size
        self._retry_after = retry_after

    @contextmanager
    def share(self) -> Iterator[Callable[[int], None]]:
        """Gives what takes bytes for one request, which are given back at the end; it raises HttpError 503."""
        taken = 0

        def take(amount: int) -> None:
            nonlocal taken
            if amount > self._left:
                raise too_many_bodies(retry_after=self._retry_after)
            self._left -= amount
            taken += amount

        try:
            yield take
        finally:
            self._left += taken


async def read(scope: Scope, receive: Receive, *, limit: int, take: Callable[[int], None]) -> bytes:
    """The body's bytes, each taken by `take`, which may raise. Raises ClientGone, and HttpError 413 above `limit`
    bytes, at once when the length is declared, or 400 when two are."""
    if {b"content-length", b"transfer-encoding"} <= {name for name, _ in scope["headers"]}:
        raise two_lengths()
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit() and int(value) > limit:
            raise too_large(limit)
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > limit:
            raise too_large(limit)
        take(len(chunk))
        chunks.append(chunk)
        if not message.get("more_body"):
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)


async def discard(receive: Receive, *, limit: int) -> bool:
    """Reads a body without keeping it; whether it came to its end within `limit` bytes and 5 s. Raises ClientGone."""
    size = 0
    try:
        async with asyncio.timeout(DISCARD_SECONDS):
            while size <= limit:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone
                size += len(message.get("body", b""))
                if not message.get("more_body"):
                    return True
    except TimeoutError:
        pass
    return False


def parse(raw: bytes) -> RequestBody:
    """Understands `raw` as a JSON object. Raises HttpError 400 that says where it is not one."""
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise bad_request(f"the body is not UTF-8 at byte {error.start}") from None
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise bad_request(f"the body is not JSON at {where}: {error.msg}") from None
    except RecursionError:
        raise bad_request("the body is nested too deeply") from None
    except ValueError as error:
        raise bad_request(f"the body is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise bad_request("the body is not a JSON object")
    fields, stripped = strip(value)
    return RequestBody(raw=written(fields) if stripped else raw, fields=fields, stripped=stripped)


def written(fields: Body) -> bytes:
    """`fields` as JSON again. Raises HttpError 400 when they are nested more deeply than can be written."""
    try:
        return encode(fields)
    except RecursionError:
        raise bad_request("the body is nested too deeply") from None


def _refuse_constant(name: str) -> HttpError:
    raise ValueError(f"{name} is not a JSON number")
