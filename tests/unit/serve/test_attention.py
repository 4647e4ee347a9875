"""Attention in any of its ways gives what attention of one sequence alone gives."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence

import pytest
import torch
from torch import Tensor

from tandem_serve.engine.attention import Span, _chunk, pack
from tandem_serve.engine.blocks import BLOCK_TOKENS, blocks_for
from tandem_serve.engine.kv_cache import KvLayout, KvMemory, SequenceKv
from tandem_serve.engine.singles import Rules, Singles, choose_lots, in_lots

HEADS, KV_HEADS, HEAD_DIM = 4, 2, 16


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("window", [None, 10, 1000])
@pytest.mark.parametrize("start", [0, 21])
def test_a_chunk_of_a_prompt(start: int, window: int | None, softcap: float | None, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    memory = memory_of(dtype, capacity_blocks=4)
    memory.data.normal_()
    query = torch.randn(1, HEADS, 15, HEAD_DIM, dtype=dtype)
    rules = Rules(0, None, window, softcap, None)
    alone, together = (
        _chunk(query, Span(memory.view([0, 1, 3]), start, 15), rules, as_gpu=as_gpu) for as_gpu in (False, True)
    )
    assert together.shape == alone.shape == (15, HEADS, HEAD_DIM)
    torch.testing.assert_close(together, alone, atol=1e-5 if dtype is torch.float32 else 2e-2, rtol=0)


def memory_of(dtype: torch.dtype, *, capacity_blocks: int) -> KvMemory:
    layout = KvLayout(layers=1, kv_heads=KV_HEADS, head_dim=HEAD_DIM, dtype=dtype, device=torch.device("cpu"))
    return KvMemory(layout, capacity_tokens=capacity_blocks * BLOCK_TOKENS)


STOPS = (1, 700, 16, 17, 90, 900, 100, 4000)


def memory_with(
    stops: Sequence[int], dtype: torch.dtype, *, apart: Iterable[int] = ()
) -> tuple[KvMemory, list[tuple[SequenceKv, int]]]:
    """Texts of such lengths in a memory of noise; those `apart` stand in two runs."""
    memory = memory_of(dtype, capacity_blocks=sum(blocks_for(stop) + 1 for stop in stops))
    memory.data.normal_()
    memory.data.narrow(3, memory.zeros * BLOCK_TOKENS, BLOCK_TOKENS).zero_()
    first, spans = 0, []
    for place, stop in enumerate(stops):
        blocks = list(range(first, first + blocks_for(stop)))
        if place in apart:
            blocks[-1] += 1
        spans.append((memory.view(blocks), stop))
        spans[-1][0].begin(0, stop)
        first += blocks_for(stop) + 1
    return memory, spans


def attended(query: Tensor, kv: SequenceKv, stop: int, rules: Rules) -> Tensor:
    """One token's attention as the papers write it: query [kv_heads, group, head_dim] -> the same."""
    keys, values = (part[0].float() for part in kv.read(0, 0, stop))
    scores = query.float() @ keys.transpose(1, 2) * HEAD_DIM**-0.5
    if rules.softcap is not None:
        scores = rules.softcap * torch.tanh(scores / rules.softcap)
    if rules.window is not None:
        scores[..., : max(0, stop - rules.window)] = float("-inf")
    if rules.sinks is not None:
        scores = torch.cat((scores, rules.sinks.float().view(KV_HEADS, -1, 1)), dim=-1)
    return (scores.softmax(-1)[..., :stop] @ values).to(query.dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("sinks", [False, True])
@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("window", [None, 10, 40, 1000])
@pytest.mark.parametrize("as_gpu", [False, True])
def test_tokens_of_many_texts_attend_as_each_would_alone(
    as_gpu: bool, window: int | None, softcap: float | None, sinks: bool, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    memory, spans = memory_with(STOPS, dtype, apart=(1, 4))
    query = torch.randn(len(STOPS), KV_HEADS, HEADS // KV_HEADS, HEAD_DIM, dtype=dtype)
    rules = Rules(0, None, window, softcap, torch.randn(HEADS, dtype=dtype) if sinks else None)
    packed, order = pack(memory, [(kv, stop - 1, 1) for kv, stop in spans], as_gpu=as_gpu)
    assert packed.singles is not None
    assert as_gpu or (packed.singles.lots[:, 2] >= 0).tolist() == [True, False, False], "one read in place, two copied"
    together = packed.singles.attend(query[list(order)], rules)
    for place, of_lot in zip(order, together, strict=True):
        expected = attended(query[place], *spans[place], rules)
        torch.testing.assert_close(of_lot, expected, atol=1e-5 if dtype is torch.float32 else 3e-2, rtol=0)


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("window", [None, 40])
def test_attention_that_was_traced_once_does_for_any_texts(window: int | None, softcap: float | None) -> None:
    memory, spans = memory_with(STOPS, torch.float32, apart=(1, 4))
    rules = Rules(0, None, window, softcap, None)

    def attend(query: Tensor, blocks: Tensor, stops: Tensor, lots: Tensor) -> Tensor:
        return Singles(memory, blocks, stops, lots).attend(query, rules)

    def numbers(lots: list[list[int]]) -> tuple[Tensor, ...]:
        singles = in_lots(memory, spans, lots, copied=False)
        query = torch.randn(len(singles.stops), KV_HEADS, HEADS // KV_HEADS, HEAD_DIM)
        return query, singles.blocks, singles.stops, singles.lots

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("error", torch.jit.TracerWarning)  # type: ignore[attr-defined]
        traced = torch.jit.trace(attend, numbers([[0, 2], [3]]), check_trace=False)
    for lots in ([[7]], [[1]], [[0, 1, 2, 3, 4, 5, 6, 7]], [[7], [5, 1], [0], [6, 2, 3]], [[2, 3], [4]]):
        given = numbers(lots)
        torch.testing.assert_close(traced(*given), attend(*given), atol=0, rtol=0)


def test_only_texts_of_like_length_attend_together() -> None:
    memory = memory_of(torch.bfloat16, capacity_blocks=1)
    assert choose_lots(memory, [1000, 4000, 900, 100, 60, 20, 400]) == [[1], [0, 2], [6], [3, 4, 5]]


def test_long_texts_attend_alone() -> None:
    layout = KvLayout(layers=1, kv_heads=4, head_dim=64, dtype=torch.bfloat16, device=torch.device("cpu"))
    memory = KvMemory(layout, capacity_tokens=1)
    assert choose_lots(memory, [512, 512, 528, 528]) == [[2], [3], [0, 1]]


def test_copies_of_one_call_stay_in_a_cpus_cache() -> None:
    layout = KvLayout(layers=1, kv_heads=8, head_dim=128, dtype=torch.bfloat16, device=torch.device("cpu"))
    memory = KvMemory(layout, capacity_tokens=1)
    assert [len(lot) for lot in choose_lots(memory, [128] * 20)] == [8, 8, 4], "4 MiB of keys and values of a layer"


@pytest.mark.parametrize(
    ("first", "stop", "zeroed"), [(0, 3, range(3, 16)), (16, 17, range(17, 32)), (3, 4, ()), (0, 16, ())]
)
def test_what_a_block_holds_beyond_its_first_tokens_is_zeroed(first: int, stop: int, zeroed: Iterable[int]) -> None:
    memory = memory_of(torch.float32, capacity_blocks=3)
    memory.data.fill_(float("nan"))
    memory.view([0, 1]).begin(first, stop)
    assert (memory.data == 0).all(dim=-1)[0, 0, 0].nonzero().flatten().tolist() == list(zeroed)
