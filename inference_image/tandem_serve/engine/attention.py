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
class Span:
    """`count` tokens of one sequence, at positions start, start+1, ...; spans follow each other in the row."""

    kv: SequenceKv
    start: int
    count: int
    mask: Tensor | None
    """[count, start + count] for several tokens that have others before them, else None."""


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """The row of one step: first the spans of one token (`singles` of them), then the longer ones."""

    spans: tuple[Span, ...]
    singles: int
    counts: list[int]


def pack(parts: list[tuple[SequenceKv, int, int]], device: torch.device) -> PackedBatch:
    """A batch of (kv, start, count). Those with count 1 must come first."""
    spans = tuple(Span(kv, start, count, _mask(start, count, device)) for kv, start, count in parts)
    singles = next((index for index, span in enumerate(spans) if span.count > 1), len(spans))
    return PackedBatch(spans, singles, [span.count for span in spans])


def _mask(start: int, count: int, device: torch.device) -> Tensor | None:
    if count == 1 or start == 0:
        return None
    return torch.ones(count, start + count, dtype=torch.bool, device=device).tril(start)


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,  # noqa: ARG001  (always None: see the module's text)
    *,
    packed: PackedBatch,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Stores the new keys and values, then attends sequence by sequence over what each has stored.

    query is [1, heads, T, head_dim], key and value [1, kv_heads, T, head_dim]; returns [1, T, heads, head_dim].
    """
    layer: Any = module.layer_idx
    new = torch.split(torch.cat((key, value)), packed.counts, dim=2)
    room = [span.kv.both[layer].narrow(2, span.start, span.count) for span in packed.spans]
    torch._foreach_copy_(room, list(new))
    parts = []
    if packed.singles:
        parts.append(_attend_singles(query, packed, layer, scaling))
    begin = packed.singles
    for span in packed.spans[packed.singles :]:
        parts.append(_attend_chunk(query.narrow(2, begin, span.count), span, layer, scaling))
        begin += span.count
    return (parts[0] if len(parts) == 1 else torch.cat(parts)).unsqueeze(0), None


def _attend_singles(query: Tensor, packed: PackedBatch, layer: int, scaling: float | None) -> Tensor:
    """The spans of one token, [singles, heads, head_dim].

    A lone token sees all keys, so no mask is needed, and the heads that share a KV head stand as its queries, so
    nothing is repeated.
    """
    _, heads, _, head_dim = query.shape
    count = packed.singles
    kv_heads = packed.spans[0].kv.keys[layer].shape[1]
    grouped = query[0, :, :count].transpose(0, 1).reshape(count, 1, kv_heads, heads // kv_heads, head_dim)
    out = [
        F.scaled_dot_product_attention(
            own,
            span.kv.keys[layer].narrow(2, 0, span.start + 1),
            span.kv.values[layer].narrow(2, 0, span.start + 1),
            scale=scaling,
        )
        for own, span in zip(grouped.unbind(0), packed.spans, strict=False)
    ]
    return torch.cat(out).view(count, heads, head_dim)


def _attend_chunk(query: Tensor, span: Span, layer: int, scaling: float | None) -> Tensor:
    """Several tokens of one sequence, [count, heads, head_dim]."""
    seen = span.start + span.count
    keys = span.kv.keys[layer].narrow(2, 0, seen)
    attended = F.scaled_dot_product_attention(
        query,
        keys,
        span.kv.values[layer].narrow(2, 0, seen),
        attn_mask=span.mask,
        is_causal=span.mask is None,
        scale=scaling,
        enable_gqa=keys.shape[1] != query.shape[1],
    )
    return attended[0].transpose(0, 1)


def register() -> None:
    """Makes the attention known to transformers under `NAME`; doing it again changes nothing."""
    AttentionInterface.register(NAME, packed_attention)
