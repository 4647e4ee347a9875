"""The hand-off of KV: its bytes, their proof, and the lease on it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from tandem_serve.engine.blocks import BLOCK_TOKENS
from tandem_serve.engine.kv_cache import KvLayout, KvMemory, SequenceKv
from tandem_serve.engine.transfer import identity, wire
from tandem_serve.engine.transfer.identity import KvRefusedError
from tandem_serve.engine.transfer.lease import Lease, LeaseStore
from tandem_serve.engine.transfer.wire import KvPart
from tandem_serve.engine.types import Finish, FinishReason, Kept, SamplingParams, SequenceRequest, Update

LAYOUT = KvLayout(layers=2, kv_heads=2, head_dim=4, dtype=torch.float32, device=torch.device("cpu"))
WHO = wire.identity(LAYOUT, model_digest="d", rope={"theta": 1.0})
PROMPT = tuple(range(5, 205))  # more than a segment


def sequence_kv(*blocks: int) -> SequenceKv:
    """The KV of one sequence in a memory of its own, in two places of it unless `blocks` says otherwise."""
    memory = KvMemory(LAYOUT, capacity_tokens=16 * BLOCK_TOKENS)
    memory.data.normal_()
    return memory.view(blocks or (2, 0, *range(4, 15)))


def stored(kv: SequenceKv, tokens: int) -> torch.Tensor:
    """[layers, 2, tokens, kv_heads, head_dim]."""
    return torch.cat([kv.memory.data[:, :, :, row : row + count] for _, row, count in kv.pieces(0, tokens)], dim=3)


def leased(kv: SequenceKv, tokens: int | None = None) -> Lease:
    """A lease on the KV of `PROMPT`, of which so many tokens are there."""
    return Lease(kv_id="k", seq_id=0, prompt=PROMPT, kv=kv, tokens=len(PROMPT) if tokens is None else tokens)


def sent(kv: SequenceKv, first: int = 0, token: str = "t") -> tuple[bytes, list[bytes]]:
    """Header and segments, each with its MAC, as they go over the wire without their lengths."""
    message = wire.KvMessage(leased(kv), first=first, who=WHO, layout=LAYOUT, token=token)
    frames = [bytes(message.frame(number)) for number in range(len(message.segments))]
    assert message.size == len(message.header) + sum(map(len, frames))
    assert sum(count for _, count in message.segments) == len(PROMPT) - 1 - first
    for frame in frames:
        assert identity.LENGTH.unpack_from(frame) == (len(frame) - identity.FRAME_BYTES,)
    return message.header, [frame[identity.LENGTH.size :] for frame in frames]


def received(header: bytes, parts: list[bytes], *, first: int = 0, token: str = "t", **changes: Any) -> list[KvPart]:
    """What a receiver that wants this makes of it."""
    who = replace(WHO, **{key: value for key, value in changes.items() if key != "prompt"})
    prompt = changes.get("prompt", PROMPT)
    identity.check_header(header, identity.encode_header(who, prompt=prompt, first=first))
    proof, out = identity.Proof(token, header), []
    for (begin, count), part in zip(wire.segments(LAYOUT, first, len(prompt) - 1), parts, strict=True):
        data = np.frombuffer(bytearray(part[: -identity.MAC_BYTES]), dtype=np.uint8)
        proof.check(memoryview(data), part[-identity.MAC_BYTES :], first=begin)
        out.append(KvPart(first=begin, count=count, data=data, layout=LAYOUT))
    return out


@pytest.mark.parametrize("first", [0, 16, 128, 160])
def test_kv_arrives_as_it_was_sent(first: int) -> None:
    source, same, other = sequence_kv(), sequence_kv(*range(13)), sequence_kv(*range(12, -1, -1))
    for taker in (same, other):
        for part in received(*sent(source, first), first=first):
            part.copy_into(taker)
        assert torch.equal(stored(taker, 199)[:, :, first:], stored(source, 199)[:, :, first:])


@pytest.mark.parametrize("first", [0, 16, 48, 128, 198])
def test_segments_cover_what_is_wanted_block_by_block(first: int) -> None:
    parts = list(wire.segments(LAYOUT, first, 199))
    assert [begin for begin, _ in parts] == [first, *(begin + count for begin, count in parts[:-1])]
    assert sum(count for _, count in parts) == 199 - first
    assert all((begin + count) % BLOCK_TOKENS == 0 for begin, count in parts[:-1])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"protocol": "tandem-kv/4"}, "protocol"),
        ({"model_digest": "e"}, "model"),
        ({"dtype": "BF16"}, "dtype"),
        ({"kv_heads": 1}, "layout"),
        ({"layers": 3}, "layout"),
        ({"head_dim": 8}, "layout"),
        ({"rope": "x"}, "layout"),
        ({"prompt": (*PROMPT[:-1], 8)}, "prompt"),
        ({"prompt": PROMPT[:-1]}, "prompt"),
        ({"first": 16}, "range"),
    ],
)
def test_kv_of_something_else_is_refused_with_its_reason(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(KvRefusedError) as caught:
        received(*sent(sequence_kv()), **changes)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    "header", [b"x" * 40, b"\x08" + b"\0" * 7 + b"[1, 2]  ", b"\x10" + b"\0" * 7 + b'{"protocol": 3} '], ids=repr
)
def test_a_header_that_is_none_is_refused(header: bytes) -> None:
    with pytest.raises(KvRefusedError):
        identity.check_header(header, sent(sequence_kv())[0])


def test_the_length_of_a_header_is_bounded() -> None:
    assert identity.header_length(sent(sequence_kv())[0][:8]) == len(sent(sequence_kv())[0])
    with pytest.raises(KvRefusedError):
        identity.header_length(b"\xff" * 8)


def test_every_altered_byte_is_found() -> None:
    header, parts = sent(sequence_kv())
    for number, part in enumerate(parts):
        for position in range(0, len(part), 97):
            altered = bytearray(part)
            altered[position] ^= 1
            with pytest.raises(KvRefusedError):
                received(header, [*parts[:number], bytes(altered), *parts[number + 1 :]])


def test_segments_in_another_order_or_of_another_offer_are_refused() -> None:
    kv = sequence_kv()
    header, parts = sent(kv)
    assert len(parts[0]) != len(parts[1])
    swapped = sent(kv, 16)  # its first segment is another one, and as valid
    for wrong in ([swapped[1][0], parts[1]], sent(kv, token="other")[1]):
        with pytest.raises(KvRefusedError) as caught:
            received(header, wrong)
        assert caught.value.reason == "digest"


def test_a_token_is_good_for_the_prompts_of_its_offer_alone() -> None:
    key = identity.WorkerKey()
    token = key.token("ab")
    assert key.fits("ab", token)
    assert key.fits("ab.1", token)
    for kv_id, shown in (("ac", token), ("ab", ""), ("ab", token[:-1]), ("ab", "\u00e9\ud800")):
        assert not key.fits(kv_id, shown)
    assert not identity.WorkerKey().fits("ab", token), "another worker, or the same one after a restart"


class Leases:
    """Leases with a clock of their own, and what they hand back and cancel."""

    def __init__(self) -> None:
        self.now = 0.0
        self.freed: list[SequenceKv] = []
        self.cancelled: list[int] = []
        self.store = LeaseStore(
            seconds=30, clock=lambda: self.now, release=self.freed.append, cancel=self.cancelled.append
        )

    def begin(self, number: int) -> None:
        sampling = SamplingParams(max_tokens=1)
        self.store.on_start(
            SequenceRequest(seq_id=number, request_id="", prompt=PROMPT, sampling=sampling, keep_kv=f"k{number}")
        )

    def grow(self, number: int, kv: SequenceKv, tokens: int) -> None:
        self.store.on_update(Update(seq_id=number, kept=Kept(kv, tokens)))

    def end(self, number: int, kv: SequenceKv | None, reason: FinishReason = FinishReason.LENGTH) -> None:
        self.store.on_update(Update(seq_id=number, finish=Finish(reason=reason, kv=kv)))

    def put(self, number: int) -> SequenceKv:
        """A prompt that is computed."""
        kv = sequence_kv()
        self.begin(number)
        self.end(number, kv)
        return kv


def test_a_heartbeat_keeps_a_lease_alive_until_there_are_no_more() -> None:
    leases = Leases()
    kv = leases.put(1)
    for _ in range(5):
        leases.now += 29
        assert leases.store.renew("k1")
        assert leases.store.expire() == 0
    leases.now += 30
    assert not leases.store.renew("k1"), "too late, also before the sweep"
    assert leases.store.expire() == 1
    assert leases.freed == [kv]
    assert not leases.store.renew("k1")


def test_a_lease_ends_at_its_time_or_when_deleted_and_never_under_a_reader() -> None:
    leases = Leases()
    kept = [leases.put(number) for number in range(3)]
    assert leases.store.delete("k0")
    assert not leases.store.delete("k0")
    assert leases.freed == kept[:1]
    reader = leases.store.open("k1")
    assert reader is not None
    leases.now = 30.0
    assert leases.store.expire() == 2
    assert leases.store.open("k1") is None
    assert leases.freed == [kept[0], kept[2]], "the one that is being read stays"
    leases.store.close(reader)
    assert leases.freed == [kept[0], kept[2], kept[1]]
    assert len(leases.store) == 0
    assert leases.cancelled == []


def test_a_lease_of_what_is_computed_begins_with_its_offer_and_its_end_ends_the_work() -> None:
    leases, kv = Leases(), sequence_kv()
    leases.begin(1)
    leases.now += 1000
    leases.grow(1, kv, 32)
    assert leases.store.expire() == 0, "it waited in the queue"
    leases.store.offered("k1")
    leases.now += 29
    reader = leases.store.open("k1")
    assert reader is not None
    assert reader.has(32)
    assert not reader.has(33)
    leases.now += 30
    assert leases.store.expire() == 1
    assert leases.cancelled == [1]
    leases.end(1, kv, FinishReason.CANCELLED)
    assert reader.lost
    assert reader.has(32), "what is there may still be read"
    assert leases.freed == []
    leases.store.close(reader)
    assert leases.freed == [kv]


@pytest.mark.parametrize("memory", [True, False])
def test_a_sequence_that_ends_early_leaves_no_lease(memory: bool) -> None:
    leases, kv = Leases(), sequence_kv()
    leases.begin(1)
    leases.end(1, kv if memory else None, FinishReason.TIMEOUT)
    assert leases.freed == [kv] * memory
    assert len(leases.store) == 0
    assert leases.store.open("k1") is None


async def test_a_reader_hears_of_more() -> None:
    leases, kv = Leases(), sequence_kv()
    leases.begin(1)
    leases.store.offered("k1")
    reader = leases.store.open("k1")
    assert reader is not None
    assert not await reader.changed(0.001)
    waiting = asyncio.ensure_future(reader.changed(60))
    await asyncio.sleep(0)
    leases.grow(1, kv, 16)
    assert await waiting
    assert reader.has(16)
