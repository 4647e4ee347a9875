"""Attention as a GPU does it gives what attention as the CPU does it gives."""

from __future__ import annotations

import pytest
import torch

from tandem_serve.engine.attention import Span, _chunk, _Rules
from tandem_serve.engine.blocks import BLOCK_TOKENS
from tandem_serve.engine.kv_cache import KvLayout, KvMemory

HEADS, KV_HEADS, HEAD_DIM = 4, 2, 16


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("window", [None, 10, 1000])
@pytest.mark.parametrize("start", [0, 21])
def test_a_chunk_of_a_prompt(start: int, window: int | None, softcap: float | None, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layout = KvLayout(layers=1, kv_heads=KV_HEADS, head_dim=HEAD_DIM, dtype=dtype, device=torch.device("cpu"))
    memory = KvMemory(layout, capacity_tokens=4 * BLOCK_TOKENS)
    memory.data.normal_()
    query = torch.randn(1, HEADS, 15, HEAD_DIM, dtype=dtype)
    rules = _Rules(0, None, window, softcap, None)
    alone, together = (
        _chunk(query, Span(memory.view([0, 1, 3]), start, 15), rules, together=together) for together in (False, True)
    )
    assert together.shape == alone.shape == (15, HEADS, HEAD_DIM)
    torch.testing.assert_close(together, alone, atol=1e-5 if dtype is torch.float32 else 2e-2, rtol=0)
