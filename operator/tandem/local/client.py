"""Talks to a deployment that runs: asks it, and reads what its processes counted."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from tandem.api.handoff import read_refusals, words_of
from tandem.api.problems import Problem, Refused, shorten

POLL_SECONDS = 0.05
TELL_SECONDS = 10.0
ASK_AGAIN_SECONDS = 3.0
ANSWER_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class Sample:
    """One figure of a process's metrics."""

    name: str
    labels: Mapping[str, str]
    value: float


class Counters:
    """The metrics of one process at one time."""

    def __init__(self, samples: tuple[Sample, ...]) -> None:
        self._samples = samples

    def total(self, name: str, **labels: str) -> float:
        """Sum of the samples of that name that carry these labels; raises KeyError when there is no such name."""
        named = [sample for sample in self._samples if sample.name == name]
        if not named:
            raise KeyError(name)
        return sum(sample.value for sample in named if labels.items() <= sample.labels.items())


async def read_counters(session: aiohttp.ClientSession, base_url: str) -> Counters:
    """What the process at `base_url` counted so far; raises aiohttp.ClientError."""
    async with session.get(f"{base_url}/metrics") as response:
        response.raise_for_status()
        return Counters(tuple(_samples(await response.text())))


def _samples(text: str) -> Iterator[Sample]:
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            yield Sample(sample.name, sample.labels, sample.value)


async def until_router_knows(session: aiohttp.ClientSession, base_url: str, *, workers: int) -> None:
    """Returns when the router's own list holds `workers` that are ready; it reads the endpoints file now and then."""
    while True:
        counters = await read_counters(session, base_url)
        with suppress(KeyError):  # no list yet
            if counters.total("tandem_router_endpoints", state="ready") >= workers:
                return
        await asyncio.sleep(POLL_SECONDS)


async def refused_handoff(session: aiohttp.ClientSession, base_url: str) -> str | None:
    """Which decode worker takes no KV of its prefill workers and why, in words; None when none is known to."""
    with suppress(aiohttp.ClientError, TimeoutError, ValueError):
        async with session.get(f"{base_url}/loading", timeout=aiohttp.ClientTimeout(total=TELL_SECONDS)) as response:
            refusals = read_refusals(await response.json())
        if refusals:
            return words_of(refusals)
    return None


async def until_handoff_refused(session: aiohttp.ClientSession, base_url: str) -> str:
    """Asks now and then; returns what the first refusal says."""
    while True:
        told = await refused_handoff(session, base_url)
        if told is not None:
            return told
        await asyncio.sleep(ASK_AGAIN_SECONDS)


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of an answer; the last one carries the number of tokens of prompt and answer."""

    text: str
    prompt_tokens: int | None = None
    answer_tokens: int | None = None


async def stream_answer(
    session: aiohttp.ClientSession,
    base_url: str,
    *,
    model: str,
    prompt: str,
    max_tokens: int | None,
    api_key: str | None = None,
) -> AsyncIterator[Chunk]:
    """The deployment's greedy answer to a prompt, as it comes; raises `Refused` with what was said instead."""
    url = f"{base_url}/v1/completions"
    body: dict[str, Any] = {"model": model, "prompt": prompt, "temperature": 0, "stream": True}
    body["stream_options"] = {"include_usage": True}
    if max_tokens is not None:
        body["max_tokens"] = max_tokens
    timeout = aiohttp.ClientTimeout(total=ANSWER_SECONDS)
    headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
    async with session.post(url, json=body, headers=headers, timeout=timeout) as response:
        if response.status != 200:
            raise _refused(url, f"HTTP {response.status}", await response.text())
        async for line in response.content:
            data = line.removeprefix(b"data:").strip()
            if not line.startswith(b"data:") or data == b"[DONE]":
                continue
            event = json.loads(data)
            if "error" in event:
                raise _refused(url, "", json.dumps(event["error"]))
            yield _chunk(event)


def _chunk(event: Mapping[str, Any]) -> Chunk:
    text = "".join(choice["text"] for choice in event["choices"])
    usage = event.get("usage")
    return Chunk(text, usage["prompt_tokens"], usage["completion_tokens"]) if usage else Chunk(text)


def _refused(url: str, value: str, said: str) -> Refused:
    return Refused([Problem(f"POST {url}", value, f"the deployment refused: {shorten(said, 500)}", "")])
