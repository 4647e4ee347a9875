"""Workers that do not fit together, however they differ: the text is right, nothing is fetched, decode says why."""

from __future__ import annotations

import logging
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import web

from tandem_serve.engine.loader import LoadedModel, LoadOptions, load
from tandem_serve.engine.progress import LoadProgress
from tandem_serve.engine.transfer.identity import MAX_HEADER_BYTES
from tests.unit.serve import tiny
from tests.unit.serve.handoffs import NEW, TEXT, counters, freed, network, offer, pair

pytestmark = pytest.mark.integration


def _bfloat16(_: LoadedModel, directory: Path) -> LoadedModel:
    return load(LoadOptions(directory=directory, dtype="bfloat16"), LoadProgress(logging.getLogger("test")))


def _int8(_: LoadedModel, directory: Path) -> LoadedModel:
    options = LoadOptions(directory=directory, dtype="bfloat16", quantization="int8")
    return load(options, LoadProgress(logging.getLogger("test")))


def _other_weights(_: LoadedModel, directory: Path) -> LoadedModel:
    other = tiny.save_llama(directory.parent / f"{directory.name}-other", seed=9)
    return load(LoadOptions(directory=other), LoadProgress(logging.getLogger("test")))


def _other_rope(model: LoadedModel, _: Path) -> LoadedModel:
    return replace(model, rope={**model.rope, "theta": 1e6})


@pytest.mark.parametrize(
    ("other", "reason"),
    [(_bfloat16, "dtype"), (_int8, "model"), (_other_weights, "model"), (_other_rope, "layout")],
    ids=["bfloat16", "int8", "weights", "rope"],
)
async def test_workers_that_differ_refuse_each_other(
    expected: str,
    endless: LoadedModel,
    llama_dir: Path,
    other: Callable[[LoadedModel, Path], LoadedModel],
    reason: str,
) -> None:
    prefilling = replace(other(endless, llama_dir), eos_ids=frozenset())
    async with pair(prefilling, decoder=endless) as (prefill, decode):
        params = await offer(prefill)
        answer = await decode.complete(TEXT, max_tokens=NEW, kv_transfer_params=params)
        assert (answer.status, answer.text) == (200, expected)
        counted = await counters(decode)
        assert (counted.failures, counted.transferred) == ({reason: 1}, 0)
        told = (await decode.get("/health")).json["refused_handoff"]
        assert told["reason"] == reason
        assert " at the prefill worker and " in told["message"]
        assert await prefill.metric('tandem_kv_transfer_bytes_total{direction="sent"}') == 0
        await freed(prefill, decode)


def _framed(header: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header


@pytest.mark.parametrize(
    "header",
    [b"[" * (MAX_HEADER_BYTES - 8), b'{"protocol":' * 5000, b"\xff" * 100, b"", b"null", b'{"protocol":1e999}'],
    ids=["deep lists", "deep objects", "not UTF-8", "empty", "null", "infinity"],
)
async def test_a_header_that_means_harm_is_a_failed_hand_off_and_no_more(
    expected: str, endless: LoadedModel, header: bytes
) -> None:
    async def spoil(request: web.Request, response: web.StreamResponse, body: bytes) -> None:
        await response.prepare(request)
        await response.write(_framed(header).ljust(len(body), b" ")[: len(body)])

    async with pair(endless) as (prefill, decode), network(prefill, spoil) as port:
        params = await offer(prefill) | {"remote_port": port}
        answer = await decode.complete(TEXT, max_tokens=NEW, kv_transfer_params=params)
        assert (answer.status, answer.text) == (200, expected)
        counted = await counters(decode)
        assert (sum(counted.failures.values()), counted.transferred, counted.fallbacks) == (1, 0, 1)
        await freed(prefill, decode)
