"""Attention in any of its ways gives what attention of one sequence alone gives."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
import torch

from tandem_serve.engine.attention import Span, _chunk, _Rules, _single, _singles, pack
from tandem_serve.engine.blocks import BLOCK_TOKENS, blocks_for
from tandem_serve.engine.gathered import lots
from tandem_serve.engine.kv_cache import KvLayout, KvMemory

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
    rules = _Rules(0, None, window, softcap, None)
    alone, together = (
        _chunk(query, Span(memory.view([0, 1, 3]), start, 15), rules, as_gpu=as_gpu) for as_gpu in (False, True)
    )
    assert together.shape == alone.shape == (15, HEADS, HEAD_DIM)
    torch.testing.assert_close(together, alone, atol=1e-5 if dtype is torch.float32 else 2e-2, rtol=0)


def memory_of(dtype: torch.dtype, *, capacity_blocks: int) -> KvMemory:
    layout = KvLayout(layers=1, kv_heads=KV_HEADS, head_dim=HEAD_DIM, dtype=dtype, device=torch.device("cpu"))
    return KvMemory(layout, capacity_tokens=capacity_blocks * BLOCK_TOKENS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("window", [None, 10, 40, 1000])
@pytest.mark.parametrize("as_gpu", [False, True])
def test_tokens_that_attend_together_give_what_each_gives_alone(
    as_gpu: bool, window: int | None, softcap: float | None, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    memory = memory_of(dtype, capacity_blocks=256)
    memory.data.normal_()
    memory.data.narrow(3, memory.zeros * BLOCK_TOKENS, BLOCK_TOKENS).zero_()
    stops = (1, 700, 16, 17, 90, 900, 100)
    first, views = 0, []
    for stop in stops:
        views.append(memory.view(range(first, first + blocks_for(stop))))
        views[-1].begin(0, stop)
        first += blocks_for(stop)
    query = torch.randn(KV_HEADS, HEADS // KV_HEADS, len(stops), HEAD_DIM, dtype=dtype)
    packed = pack(memory, [(kv, stop - 1, 1) for kv, stop in zip(views, stops, strict=True)], as_gpu=as_gpu)
    rules = _Rules(0, None, window, softcap, None)
    together = _singles(query, packed, rules)
    for place, span in enumerate(packed.spans):
        alone = _single(query[:, :, place], span, rules).reshape(HEADS, HEAD_DIM)
        torch.testing.assert_close(together[place], alone, atol=1e-5 if dtype is torch.float32 else 3e-2, rtol=0)
    assert as_gpu or (len(packed.groups), len(packed.alone)) == (2, 0), "the test meant several groups"


def test_only_texts_of_like_length_attend_together() -> None:
    memory = memory_of(torch.bfloat16, capacity_blocks=1)
    assert lots(memory, [1000, 4000, 900, 100, 60, 20, 400]) == [[1], [0, 2], [6], [3, 4, 5]]


def test_long_texts_attend_alone() -> None:
    layout = KvLayout(layers=1, kv_heads=4, head_dim=64, dtype=torch.bfloat16, device=torch.device("cpu"))
    memory = KvMemory(layout, capacity_tokens=1)
    assert lots(memory, [512, 512, 528, 528]) == [[2], [3], [0, 1]]


def test_copies_of_one_call_stay_in_a_cpus_cache() -> None:
    layout = KvLayout(layers=1, kv_heads=8, head_dim=128, dtype=torch.bfloat16, device=torch.device("cpu"))
    memory = KvMemory(layout, capacity_tokens=1)
    assert [len(lot) for lot in lots(memory, [128] * 20)] == [8, 8, 4], "4 MiB of keys and values of a layer"


@pytest.mark.parametrize(
    ("first", "stop", "zeroed"), [(0, 3, range(3, 16)), (16, 17, range(17, 32)), (3, 4, ()), (0, 16, ())]
)
def test_what_a_block_holds_beyond_its_first_tokens_is_zeroed(first: int, stop: int, zeroed: Iterable[int]) -> None:
    memory = memory_of(torch.float32, capacity_blocks=3)
    memory.data.fill_(float("nan"))
    memory.view([0, 1]).begin(first, stop)
    assert (memory.data == 0).all(dim=-1)[0, 0, 0].nonzero().flatten().tolist() == list(zeroed)
