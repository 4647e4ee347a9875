"""Attention over packed tokens: the tokens of all sequences of a step stand in one row, without padding.

Registered with transformers' `AttentionInterface`; the model hands the `packed` keyword of its `forward` down to it.
No mask function is registered under the same name, so the models build no mask at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface

from tandem_serve.engine.kv_cache import SequenceKv

NAME = "tandem_packed"


@dataclass(frozen=True, slots=True)
class PackedSpan:
    """Tokens [begin, end) of the row belong to one sequence and stand at positions start, start+1, ..."""

    kv: SequenceKv
    begin: int
    end: int
    start: int
    mask: Tensor | None
    """[tokens, start + tokens] for a chunk that has tokens before it, else None."""


def span_mask(*, start: int, tokens: int, device: torch.device) -> Tensor | None:
    """Which keys each of `tokens` queries at positions start.. may see; None where no mask is needed."""
    if tokens == 1 or start == 0:
        return None
    return torch.ones(tokens, start + tokens, dtype=torch.bool, device=device).tril(start)


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,  # noqa: ARG001  (always None: see the module's text)
    *,
    packed: tuple[PackedSpan, ...],
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Stores the new keys and values and attends, span by span.

    query is [1, heads, T, head_dim], key and value [1, kv_heads, T, head_dim]; returns [1, T, heads, head_dim].
    """
    layer: int = module.layer_idx
    keys = key[0].transpose(0, 1)
    values = value[0].transpose(0, 1)
    heads, total, head_dim = query.shape[1:]
    out = torch.empty(1, total, heads, head_dim, dtype=query.dtype, device=query.device)
    for span in packed:
        begin, end, seen = span.begin, span.end, span.start + span.end - span.begin
        span.kv.write(layer=layer, start=span.start, keys=keys[begin:end], values=values[begin:end])
        past_keys, past_values = span.kv.read(layer=layer, end=seen)
        k = past_keys.transpose(0, 1).unsqueeze(0)
        v = past_values.transpose(0, 1).unsqueeze(0)
        if end - begin == 1:
            out[0, begin] = _attend_one(query[0, :, begin], k, v, scaling)
            continue
        attended = F.scaled_dot_product_attention(
            query[:, :, begin:end],
            k,
            v,
            attn_mask=span.mask,
            is_causal=span.mask is None,
            scale=scaling,
            enable_gqa=k.shape[1] != heads,
        )
        out[:, begin:end] = attended.transpose(1, 2)
    return out, None


def _attend_one(query: Tensor, keys: Tensor, values: Tensor, scaling: float | None) -> Tensor:
    """One token, [heads, head_dim]: the heads that share a KV head stand as its queries, so nothing is repeated."""
    heads, head_dim = query.shape
    kv_heads = keys.shape[1]
    grouped = query.reshape(1, kv_heads, heads // kv_heads, head_dim)
    return F.scaled_dot_product_attention(grouped, keys, values, scale=scaling).reshape(heads, head_dim)


def register() -> None:
    """Makes the attention known to transformers under `NAME`; doing it again changes nothing."""
    AttentionInterface.register(NAME, packed_attention)
