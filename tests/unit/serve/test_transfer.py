"""The hand-off of KV: its bytes, the lease on it, and pulls that go wrong."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from aiohttp import web
from safetensors.torch import load as safetensors_load

from tandem_serve.backend import build_core
from tandem_serve.engine.blocks import BLOCK_TOKENS, blocks_for
from tandem_serve.engine.kv_cache import KvLayout, KvMemory, SequenceKv
from tandem_serve.engine.loader import LoadedModel
from tandem_serve.engine.transfer import wire
from tandem_serve.engine.transfer.lease import Lease, LeaseStore
from tandem_serve.engine.transfer.wire import KvRefusedError
from tandem_serve.engine.types import SamplingParams, SequenceRequest
from tandem_serve.http.app import create_app
from tests.unit.serve import tiny
from tests.unit.serve.live import LiveServer, eventually, live_server

LAYOUT = KvLayout(layers=2, kv_heads=2, head_dim=4, dtype=torch.float32, device=torch.device("cpu"))
WHO = wire.identity(LAYOUT, model_digest="d", rope={"theta": 1.0})
PROMPT = tuple(range(5, 25))  # more than a block
TEXT = tiny.TEXT * 3


def sequence_kv(*blocks: int) -> SequenceKv:
    """The KV of one sequence in a memory of its own, in two places of it unless `blocks` says otherwise."""
    memory = KvMemory(LAYOUT, capacity_tokens=3 * BLOCK_TOKENS)
    memory.data.normal_()
    return memory.view(blocks or (2, 0))


def stored(kv: SequenceKv, tokens: int) -> torch.Tensor:
    """[layers, 2, tokens, kv_heads, head_dim]."""
    return torch.cat([kv.memory.data[:, :, row : row + count] for _, row, count in kv.pieces(0, tokens)], dim=2)


def message(kv: SequenceKv) -> tuple[bytearray, bytes]:
    """The bytes of a hand-off, and the digest a receiver computes."""
    encoding = wire.encode(Lease(kv=kv, prompt=PROMPT, expires=0), who=WHO, layout=LAYOUT)
    body = encoding.header + b"".join(encoding.planes)
    assert len(body) == len(encoding.header) + encoding.data_bytes
    digest = hashlib.sha256(body).digest()
    return bytearray(body + digest), digest


def decode(buffer: bytearray, digest: bytes, **changes: Any) -> wire.KvMessage:
    want = replace(WHO, **{key: value for key, value in changes.items() if key != "prompt"})
    return wire.decode(buffer, digest=digest, want=want, layout=LAYOUT, prompt=changes.get("prompt", PROMPT))


def test_kv_arrives_as_it_was_sent() -> None:
    sent, kept, other = sequence_kv(), sequence_kv(0, 1), sequence_kv(1, 2)
    got = decode(*message(sent))
    assert got.tokens == 20
    for taker in (kept, other):
        got.copy_into(taker, 19)
        assert torch.equal(stored(taker, 19), stored(sent, 19))


def test_safetensors_reads_the_same_bytes() -> None:
    kv = sequence_kv()
    buffer, _ = message(kv)
    tensors = safetensors_load(bytes(buffer[: -wire.TRAILER_BYTES]))
    assert torch.equal(tensors["1.v"], stored(kv, 20)[1, 1])


def test_the_pieces_are_views_of_the_memory() -> None:
    kv = sequence_kv()
    first = next(iter(wire.encode(Lease(kv=kv, prompt=PROMPT, expires=0), who=WHO, layout=LAYOUT).planes))
    kv.memory.data[0, 0, kv.row(0), 0, 0] = 42.0
    assert torch.frombuffer(first, dtype=torch.float32)[0] == 42.0


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"protocol": "tandem-kv/1"}, "protocol"),
        ({"model_digest": "e"}, "model"),
        ({"dtype": "BF16"}, "dtype"),
        ({"kv_heads": 1}, "layout"),
        ({"layers": 3}, "layout"),
        ({"head_dim": 8}, "layout"),
        ({"rope": "{}"}, "layout"),
        ({"prompt": (*PROMPT[:-1], 8)}, "prompt"),
        ({"prompt": PROMPT[:-1]}, "prompt"),
    ],
)
def test_kv_of_something_else_is_refused_with_its_reason(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(KvRefusedError) as caught:
        decode(*message(sequence_kv()), **changes)
    assert caught.value.reason == reason


def test_every_altered_or_cut_byte_is_found() -> None:
    buffer, _ = message(sequence_kv())
    for position in range(0, len(buffer), 7):
        altered = bytearray(buffer)
        altered[position] ^= 1
        with pytest.raises(KvRefusedError):
            decode(altered, hashlib.sha256(altered[:-32]).digest())
    for length in (0, 7, 40, len(buffer) - 1):
        with pytest.raises(KvRefusedError):
            decode(buffer[:length], hashlib.sha256(buffer[: max(0, length - 32)]).digest())


def test_a_lease_ends_at_its_time_or_when_deleted_and_never_under_a_reader() -> None:
    now, freed = [0.0], []
    leases = LeaseStore(seconds=30, clock=lambda: now[0], release=freed.append)
    kept = [sequence_kv() for _ in range(3)]
    for name, kv in zip("abc", kept, strict=True):
        leases.put(name, kv, PROMPT)
    assert leases.delete("a")
    assert not leases.delete("a")
    assert freed == kept[:1]
    reader = leases.open("b")
    assert reader is not None
    now[0] = 30.0
    assert leases.expire() == 2
    assert leases.open("b") is None
    assert freed == [kept[0], kept[2]], "the one that is being read stays"
    leases.close(reader)
    assert freed == [kept[0], kept[2], kept[1]]
    assert len(leases) == 0


# ---- two servers ------------------------------------------------------------------------------------------------


class Clock:
    """Time that only moves when a test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@contextlib.asynccontextmanager
async def pair(
    model: LoadedModel, *, decoder: LoadedModel | None = None, clock: Callable[[], float] | None = None, **changes: Any
) -> AsyncIterator[tuple[LiveServer, LiveServer]]:
    """A prefill and a decode worker of one model (or of two)."""
    settings = tiny.settings(Path("x"), **changes)
    timing = {} if clock is None else {"clock": clock}
    async with (
        live_server(replace(settings, role="prefill"), model, **timing) as prefill,
        live_server(replace(settings, role="decode", pull_timeout=1.0), decoder or model) as decode,
    ):
        yield prefill, decode


async def offer(
    prefill: LiveServer, prompt: Any = TEXT, path: str = "/v1/completions", **fields: Any
) -> dict[str, Any]:
    """What the router does first."""
    body = {"prompt": prompt} if path == "/v1/completions" else {"messages": prompt}
    body |= {"temperature": 0, "max_tokens": 1, "stream": False, **fields}
    body["kv_transfer_params"] = {"do_remote_decode": True, "do_remote_prefill": False}
    answer = await prefill.post(path, body)
    assert answer.status == 200, answer.body
    return answer.json["kv_transfer_params"]


@pytest.fixture
def endless(llama: LoadedModel) -> LoadedModel:
    return replace(llama, eos_ids=frozenset())


@pytest.fixture(scope="module")
def expected(llama: LoadedModel) -> str:
    """The text that one worker gives."""
    core = build_core(tiny.settings(Path("x")), replace(llama, eos_ids=frozenset()))
    sampling = SamplingParams(max_tokens=20, temperature=0)
    core.engine.add(SequenceRequest(seq_id=0, request_id="", prompt=core.codec.encode(TEXT), sampling=sampling))
    text = ""
    while core.engine.scheduler.busy:
        text += "".join(update.text for update in core.engine.step()[0])
    return text


async def test_the_text_is_that_of_one_worker_and_the_prompt_is_not_computed_twice(
    expected: str, endless: LoadedModel
) -> None:
    async with pair(endless) as (prefill, decode):
        params = await offer(prefill)
        tokens = params["remote_num_tokens"]
        assert set(params) == {
            "do_remote_prefill",
            "do_remote_decode",
            "remote_engine_id",
            "remote_request_id",
            "remote_host",
            "remote_port",
            "remote_num_tokens",
            "remote_lease_seconds",
        }
        assert await prefill.metric("vllm:kv_cache_usage_perc") == pytest.approx(
            blocks_for(tokens) * BLOCK_TOKENS / 8192
        )
        answer = await decode.complete(TEXT, max_tokens=20, kv_transfer_params=params)
        assert answer.text == expected
        nbytes = tokens * endless.layout.bytes_per_token
        for server, direction in ((prefill, "sent"), (decode, "received")):
            assert await server.metric(f'tandem_kv_transfer_tokens_total{{direction="{direction}"}}') == tokens
            assert await server.metric(f'tandem_kv_transfer_bytes_total{{direction="{direction}"}}') == nbytes
        assert await decode.metric('tandem_prompt_tokens_total{source="transferred"}') == tokens - 1
        assert await decode.metric('tandem_prompt_tokens_total{source="computed"}') == 1
        assert await decode.metric("tandem_local_prefill_fallbacks_total") == 0
        await freed(prefill)
        await freed(decode)


async def freed(server: LiveServer) -> None:
    """Waits until no KV memory is in use."""
    await eventually(lambda: server.stats.kv_used_tokens == 0)


async def test_chat_and_streams_are_handed_over_too(endless: LoadedModel) -> None:
    messages = [{"role": "user", "content": TEXT}]
    body = {"messages": messages, "temperature": 0, "max_tokens": 12}
    async with pair(endless) as (prefill, decode):
        expected = (await decode.post("/v1/chat/completions", body)).json["choices"][0]["message"]["content"]
        params = await offer(prefill, messages, "/v1/chat/completions", max_completion_tokens=1)
        answer = await decode.post("/v1/chat/completions", {**body, "stream": True, "kv_transfer_params": params})
        pieces = [chunk["choices"][0]["delta"].get("content", "") for chunk in answer.events[:-1]]
        assert "".join(pieces) == expected
        assert await decode.metric('tandem_prompt_tokens_total{source="transferred"}') > 50


async def test_several_prompts_and_choices_share_one_hand_off(endless: LoadedModel) -> None:
    prompts = [TEXT, "lazy dog", "x"]
    sampled = {"temperature": 1.0, "seed": 3, "n": 2}
    async with pair(endless) as (prefill, decode):
        expected = (await prefill.complete(prompts, max_tokens=20, **sampled)).json["choices"]
        params = await offer(prefill, prompts)
        answer = await decode.complete(prompts, max_tokens=20, kv_transfer_params=params, **sampled)
        assert answer.json["choices"] == expected
        total = params["remote_num_tokens"]
        assert await decode.metric('tandem_kv_transfer_tokens_total{direction="received"}') == total
        assert await decode.metric('tandem_prompt_tokens_total{source="computed"}') == 6
        await freed(prefill)


async def failed_hand_off(decode: LiveServer, params: dict[str, Any], reason: str) -> Any:
    """The text of a decode whose hand-off fails, checked to be counted by its reason."""
    answer = await decode.complete(TEXT, max_tokens=20, kv_transfer_params=params)
    assert answer.status == 200
    assert await decode.metric(f'tandem_kv_transfer_failures_total{{reason="{reason}"}}') == 1
    assert await decode.metric("tandem_local_prefill_fallbacks_total") == 1
    assert await decode.metric('tandem_prompt_tokens_total{source="transferred"}') == 0
    return answer.text


async def test_an_expired_lease_means_a_local_prefill(expected: str, endless: LoadedModel) -> None:
    clock = Clock()
    async with pair(endless, clock=clock) as (prefill, decode):
        params = await offer(prefill)
        clock.now += params["remote_lease_seconds"]
        assert await failed_hand_off(decode, params, "gone") == expected
        await freed(prefill)


async def test_a_prefill_worker_that_is_gone_means_a_local_prefill(expected: str, endless: LoadedModel) -> None:
    async with pair(endless) as (prefill, decode):
        params = await offer(prefill) | {"remote_port": 1}
        assert await failed_hand_off(decode, params, "connect") == expected


async def test_kv_of_another_model_is_refused_and_the_prompt_prefilled(
    expected: str, endless: LoadedModel, qwen2: LoadedModel
) -> None:
    other = replace(qwen2, eos_ids=frozenset())
    async with pair(other, decoder=endless) as (prefill, decode):
        assert await failed_hand_off(decode, await offer(prefill), "model") == expected


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"remote_port": "9"}, "params"),
        ({"remote_request_id": "../metrics"}, "params"),
        ({"remote_host": None}, "params"),
        ({"remote_num_tokens": 3}, "tokens"),
    ],
)
async def test_an_offer_that_cannot_be_right_is_not_followed(
    expected: str, endless: LoadedModel, change: dict[str, Any], reason: str
) -> None:
    async with pair(endless) as (prefill, decode):
        assert await failed_hand_off(decode, await offer(prefill) | change, reason) == expected


@contextlib.asynccontextmanager
async def tampering(prefill: LiveServer, how: str) -> AsyncIterator[int]:
    """A proxy in front of a prefill worker that alters, cuts or holds up the KV; yields its port."""

    async def handle(request: web.Request) -> web.StreamResponse:
        answer = await prefill.request(request.method, request.path)
        body = bytearray(answer.body)
        if request.method == "DELETE":
            return web.Response(status=answer.status)
        if how == "altered":
            body[len(body) // 2] ^= 0x40
        if how == "longer":
            body += bytes(10_000_000)
        response = web.StreamResponse(headers={"Content-Length": str(len(body))})
        await response.prepare(request)
        if how == "longer":
            await asyncio.wait_for(response.write(bytes(body)), 5)
            return response
        await response.write(bytes(body[: len(body) // (1 if how == "altered" else 2)]))
        if how == "stalled":
            await asyncio.sleep(10)
        if how == "cut" and request.transport is not None:
            request.transport.close()
        return response

    app = web.Application()
    app.router.add_route("*", "/kv/{id}", handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(
    ("how", "reason"), [("altered", "digest"), ("cut", "cut"), ("stalled", "timeout"), ("longer", "size")]
)
async def test_bytes_that_do_not_arrive_as_sent_give_the_right_text_all_the_same(
    expected: str, endless: LoadedModel, how: str, reason: str
) -> None:
    async with pair(endless) as (prefill, decode), tampering(prefill, how) as port:
        params = await offer(prefill) | {"remote_port": port}
        assert await failed_hand_off(decode, params, reason) == expected
        await freed(decode)


async def test_a_client_that_goes_before_the_pull_frees_both_sides(endless: LoadedModel) -> None:
    async with pair(endless) as (prefill, decode), tampering(prefill, "stalled") as port:
        params = await offer(prefill) | {"remote_port": port}
        body = {"prompt": TEXT, "max_tokens": 20, "kv_transfer_params": params}
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await decode.post("/v1/completions", body)
        await freed(decode)
        await freed(prefill)


async def test_without_an_offer_a_decode_worker_prefills_and_counts_it(expected: str, endless: LoadedModel) -> None:
    async with pair(endless) as (prefill, decode):
        assert (await decode.complete(TEXT, max_tokens=20)).text == expected
        assert (await prefill.complete(TEXT, max_tokens=20)).text == expected
        assert await decode.metric("tandem_local_prefill_fallbacks_total") == 1
        assert await prefill.metric("tandem_local_prefill_fallbacks_total") == 0
        wrong_role = await prefill.complete(TEXT, kv_transfer_params={"do_remote_prefill": True})
        assert (wrong_role.status, wrong_role.error["param"]) == (400, "kv_transfer_params")


async def test_kept_kv_counts_until_it_is_fetched_or_freed(endless: LoadedModel) -> None:
    async with pair(endless, kv_cache_tokens=200) as (prefill, _):
        params = await offer(prefill, list(range(2, 152)))
        waiting = asyncio.create_task(prefill.complete(list(range(102, 202)), max_tokens=1))
        await eventually(lambda: prefill.stats.waiting == 1)
        assert (await prefill.request("DELETE", f"/kv/{params['remote_request_id']}")).status == 204
        assert (await waiting).status == 200
        assert (await prefill.request("DELETE", f"/kv/{params['remote_request_id']}")).status == 404
        await freed(prefill)


async def test_a_receiver_that_stops_reading_does_not_hold_the_memory(endless: LoadedModel) -> None:
    async with live_server(tiny.settings(Path("x"), role="prefill", pull_timeout=0.05), endless) as prefill:
        path = f"/kv/{(await offer(prefill))['remote_request_id']}"
        never = asyncio.Event()

        async def receive() -> dict[str, Any]:
            await never.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.body":
                await never.wait()

        scope = {
            "type": "http",
            "method": "GET",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": [],
        }
        await create_app(prefill.service)(scope, receive, send)
        assert await prefill.metric('tandem_kv_transfer_failures_total{reason="not_taken"}') == 1
        assert await prefill.metric('tandem_kv_transfer_tokens_total{direction="sent"}') == 0
        assert (await prefill.request("DELETE", path)).status == 204
        await freed(prefill)
