"""Talks to a deployment that runs: asks it, and reads what its processes counted."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from tandem.api.problems import refuse, shorten

POLL_SECONDS = 0.05
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


async def complete(
    session: aiohttp.ClientSession, base_url: str, *, model: str, prompt: str, max_tokens: int | None
) -> str:
    """The deployment's answer to a prompt, greedily decoded; raises `Refused` with what the deployment said."""
    url = f"{base_url}/v1/completions"
    body: dict[str, Any] = {"model": model, "prompt": prompt, "temperature": 0}
    if max_tokens is not None:
        body["max_tokens"] = max_tokens
    timeout = aiohttp.ClientTimeout(total=ANSWER_SECONDS)
    async with session.post(url, json=body, timeout=timeout) as response:
        if response.status != 200:
            said = await response.text()
            raise refuse(f"POST {url}", f"HTTP {response.status}", f"the deployment refused: {shorten(said, 500)}", "")
        answer = await response.json()
    return str(answer["choices"][0]["text"])
