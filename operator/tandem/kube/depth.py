"""JSON from the API server: lines of any length, and no deeper than parsers take. It accepts ten thousand levels where
a schema is open.

What lies deeper becomes null; whoever reads such an object finds it still too deep, and can say so.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator
from typing import Any

import aiohttp
from pydantic_core import from_json

DEEPEST = 100
# etcd takes objects of 1.5 MB; as JSON they are at most six times as long.
LONGEST_LINE = 16 * 1024 * 1024
_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[][{}]', re.DOTALL)


def shallow(data: bytes) -> bytes:
    """JSON text with `null` for what lies deeper than `DEEPEST` levels, if parsers do not take it as it is."""
    if data.count(b"{") + data.count(b"[") <= DEEPEST:
        return data
    try:
        from_json(data)
    except ValueError:
        return _cut(data)
    return data


def parse(data: bytes) -> Any:
    """The document, cut as by `shallow` only if it has to be. Raises ValueError for what is no JSON."""
    try:
        return from_json(data, cache_strings="all")
    except ValueError:
        return from_json(_cut(data), cache_strings="all")


def _cut(data: bytes) -> bytes:
    parts, depth, kept = [], 0, 0
    for token in _TOKEN.finditer(data):
        sign = token[0]
        if sign in (b"{", b"["):
            depth += 1
            if depth == DEEPEST + 1:
                parts.append(data[kept : token.start()])
        elif sign in (b"}", b"]"):
            if depth == DEEPEST + 1:
                parts.append(b"null")
                kept = token.end()
            depth -= 1
    return b"".join([*parts, data[kept:]])


async def lines(chunks: AsyncIterable[bytes]) -> AsyncGenerator[bytes, None]:
    """The lines of a stream, without their ends; raises ValueError for one beyond `LONGEST_LINE`.

    aiohttp's own end at 4 MB here, with an error that is none of a broken connection: a ConfigMap full of control
    characters, which JSON writes six times as long, would end the process whenever it is watched.
    """
    parts: list[bytes] = []
    length = 0
    async for chunk in chunks:
        *ended, rest = chunk.split(b"\n")
        for line in ended:
            yield b"".join([*parts, line])
            parts, length = [], 0
        parts.append(rest)
        length += len(rest)
        if length > LONGEST_LINE:
            raise ValueError(f"a line of more than {LONGEST_LINE} bytes")
    if length:
        yield b"".join(parts)


class ShallowResponse(aiohttp.ClientResponse):
    """A response whose JSON, whole or line by line, passes through `shallow`."""

    async def start(self, connection: Any) -> aiohttp.ClientResponse:
        """See aiohttp."""
        await super().start(connection)
        content: Any = _ShallowLines(self.content)
        self.content = content
        return self

    async def json(self, **_: Any) -> Any:
        """The body, parsed."""
        return json.loads(shallow(await self.read()))


class _ShallowLines:
    """A stream of lines; whoever reads it in chunks gets whole lines."""

    def __init__(self, content: aiohttp.StreamReader) -> None:
        self._content = content

    def __getattr__(self, name: str) -> Any:
        return getattr(self._content, name)

    async def iter_chunked(self, size: int) -> AsyncIterator[bytes]:
        async for line in lines(self._content.iter_chunked(size)):
            yield shallow(line) + b"\n"
