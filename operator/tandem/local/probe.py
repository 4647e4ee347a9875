"""Asks a process how it is, and counts answers as the kubelet does."""

from __future__ import annotations

import asyncio
import json
import math
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import aiohttp

from tandem.local.spec import LOOPBACK, ProbeSpec

WEIGHTS = "weights"
_MAX_ANSWER = 4096


@dataclass(frozen=True, slots=True)
class Loading:
    """How much of its weights a process has loaded, in bytes, and what it is doing; `step` may be unknown ("")."""

    loaded: int
    total: int
    step: str = ""

    @property
    def counts(self) -> bool:
        """Whether the bytes say how far it is: before and after the weights there is other work to do."""
        return self.total > 0 and self.step in ("", WEIGHTS)


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one probe; `detail` says why it failed."""

    passed: bool
    detail: str = ""
    loading: Loading | None = None


class Prober(Protocol):
    """Asks once."""

    async def ask(self, probe: ProbeSpec) -> Answer:
        """The answer; whatever goes wrong is an answer too."""


class HttpProber:
    """Probes over the loopback; use as an asynchronous context manager."""

    async def __aenter__(self) -> HttpProber:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(force_close=True, limit=0),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def ask(self, probe: ProbeSpec) -> Answer:
        """See `Prober`."""
        try:
            async with asyncio.timeout(probe.timeout):
                if probe.path is None:
                    return await _connect(probe.port)
                async with self._session.get(probe.target, allow_redirects=False) as response:
                    body = await response.content.read(_MAX_ANSWER)
        except TimeoutError:
            return Answer(False, f"{probe.target}: no answer within {probe.timeout:g} s")
        except (aiohttp.ClientError, OSError) as error:
            return Answer(False, f"{probe.target}: {error}")
        if 200 <= response.status < 400:
            return Answer(True)
        said = " ".join(body.decode(errors="replace").split())
        return Answer(False, f"{probe.target}: HTTP {response.status} {said}".rstrip(), _loading(body))


async def _connect(port: int) -> Answer:
    _, writer = await asyncio.open_connection(LOOPBACK, port)
    writer.close()
    return Answer(True)


def _loading(body: bytes) -> Loading | None:
    """The bundled server says in its 503 how far loading is."""
    with suppress(ValueError, KeyError, TypeError):
        fields = json.loads(body)
        return Loading(int(fields["loaded_bytes"]), int(fields["total_bytes"]), str(fields.get("step", "")))
    return None


class Count:
    """Consecutive answers of one probe against its thresholds."""

    def __init__(self, probe: ProbeSpec) -> None:
        self._probe = probe
        self._passed = 0
        self._failed = 0

    def note(self, passed: bool) -> Literal["passed", "failed"] | None:
        """Counts an answer; tells when a threshold is reached (and goes on telling it)."""
        self._passed = self._passed + 1 if passed else 0
        self._failed = 0 if passed else self._failed + 1
        if self._passed >= self._probe.success_threshold:
            return "passed"
        return "failed" if self._failed >= self._probe.failure_threshold else None


def hastened(probe: ProbeSpec, *, period: float) -> ProbeSpec:
    """The same probe asked at least every `period` seconds, with the same time until it counts as failed.

    On one machine nobody minds the questions, and somebody sits before the terminal.
    """
    if probe.period <= period:
        return probe
    times = math.ceil(probe.period * probe.failure_threshold / period)
    return replace(probe, period=period, failure_threshold=times)
