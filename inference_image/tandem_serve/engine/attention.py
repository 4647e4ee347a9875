"""Attention over packed tokens: the tokens of all sequences of a step stand in one row, without padding.

Registered with transformers' `AttentionInterface`; the model hands the `packed` keyword of its `forward` down to it.
No mask function is registered under the same name, so the models build no mask at all. What a layer sees is decided
here: all tokens before, or those within its sliding window.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.bias import causal_lower_right
from transformers import AttentionInterface

from tandem_serve.engine.device import to_device
from tandem_serve.engine.gathered import Gathered, Group, gather, lots
from tandem_serve.engine.kv_cache import KvMemory, SequenceKv

NAME = "tandem_packed"
# Numbers of keys in a layer up to which waking a second thread costs more than it gives: measured, one token on two
# CPUs: 17 instead of 27 microseconds for 26,000 numbers, 226 instead of 246 for 500,000.
_OF_ONE_THREAD = 2**19


class UnknownRuleError(Exception):
    """A model attends by a rule that the packed attention does not know."""


@dataclass(frozen=True, slots=True)
class Span:
    """`count` tokens of one sequence, at positions start, start+1, ...; spans follow each other in the row."""

    kv: SequenceKv
    start: int
    count: int
    masks: dict[int | None, Tensor | None] = field(default_factory=dict)
    """By sliding window: [count, tokens seen], made when the first layer asks."""

    @property
    def stop(self) -> int:
        """Position after the last token."""
        return self.start + self.count

    def first_seen(self, window: int | None) -> int:
        """The earliest position that any of the tokens sees."""
        return 0 if window is None else max(0, self.start - window + 1)


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """The row of one step: first the spans of one token (`singles` of them), then the longer ones."""

    memory: KvMemory
    spans: tuple[Span, ...]
    singles: int
    rows: Tensor
    """Where in the memory the KV of each token goes."""
    as_gpu: bool
    """See `attends_as_gpu`."""
    groups: tuple[Group, ...]
    """The spans of one token that attend together."""
    alone: tuple[int, ...]
    """The other spans of one token, in their order."""
    windows: dict[int, int | None] = field(default_factory=dict)
    """By layer: the sliding window that the model asked for."""


def attends_as_gpu(device: torch.device) -> bool:
    """Whether all sequences that get one token attend in one call of torch's attention.

    On a CPU short ones of like length do: see `gathered.lots`.
    """
    return device.type != "cpu"


def pack(memory: KvMemory, parts: list[tuple[SequenceKv, int, int]], *, as_gpu: bool) -> PackedBatch:
    """A batch of (kv, start, count), those with count 1 first; their blocks are made ready for what it will write."""
    spans = tuple(Span(kv, start, count) for kv, start, count in parts)
    singles = next((index for index, span in enumerate(spans) if span.count > 1), len(spans))
    rows: list[int] = []
    for span in spans:
        span.kv.begin(span.start, span.stop)
        for _, row, count in span.kv.pieces(span.start, span.stop):
            rows.extend(range(row, row + count))
    groups, alone = [], []
    stops = [span.stop for span in spans[:singles]]
    for lot in ([list(range(singles))] if singles else []) if as_gpu else lots(memory, stops):
        if as_gpu or len(lot) > 1:
            places = None if len(lot) == singles else torch.tensor(lot)
            groups.append(Group(places, gather(memory, [(spans[place].kv, stops[place]) for place in lot])))
        else:
            alone += lot
    where = to_device(np.array(rows, dtype=np.int64), memory.layout.device)
    return PackedBatch(memory, spans, singles, where, as_gpu, tuple(groups), tuple(sorted(alone)))


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,  # noqa: ARG001  (always None: see the module's text)
    *,
    packed: PackedBatch,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Stores the new keys and values, then attends over what each sequence has stored.

    query is [1, heads, T, head_dim], key and value [1, kv_heads, T, head_dim]; returns [1, T, heads, head_dim]. Raises
    `UnknownRuleError` when the model asks for something else besides.
    """
    # What else may come along are options of the model (numbers, yes and no), and the places of the tokens.
    unknown = [name for name, value in others.items() if isinstance(value, Tensor) and name != "position_ids"]
    if unknown:
        raise UnknownRuleError(f"its layers attend by {', '.join(unknown)}, which the packed attention does not know")
    layer: Any = module.layer_idx
    packed.windows[layer] = sliding_window
    packed.memory.rows[layer].index_copy_(2, packed.rows, torch.cat((key, value)))
    kv_heads, (heads, tokens, head_dim) = key.shape[1], query.shape[1:]
    # The heads that share a KV head stand side by side, as queries of it: nothing is repeated.
    grouped = query[0].reshape(kv_heads, heads // kv_heads, tokens, head_dim)
    rules = _Rules(layer, scaling, sliding_window, softcap, s_aux)
    out = []
    if packed.singles:
        seen = sum(span.stop for span in packed.spans[: packed.singles]) * kv_heads * head_dim
        with _one_thread() if not packed.as_gpu and seen <= _OF_ONE_THREAD else contextlib.nullcontext():
            out.append(_singles(grouped[:, :, : packed.singles], packed, rules))
    begin = packed.singles
    for span in packed.spans[packed.singles :]:
        out.append(_chunk(query.narrow(2, begin, span.count), span, rules, as_gpu=packed.as_gpu))
        begin += span.count
    return (out[0] if len(out) == 1 else torch.cat(out)).unsqueeze(0), None


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Has torch work on one thread; switching takes less than a microsecond."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@dataclass(frozen=True, slots=True)
class _Rules:
    """How one layer attends."""

    layer: int
    scaling: float | None
    window: int | None
    softcap: float | None
    sinks: Tensor | None
    """Of each head: the score of a place that takes attention and gives nothing."""

    @property
    def plain(self) -> bool:
        """Whether torch's own attention does it."""
        return self.softcap is None and self.sinks is None


def _singles(query: Tensor, packed: PackedBatch, rules: _Rules) -> Tensor:
    """The spans of one token, query [kv_heads, group, spans, head_dim] -> [spans, heads, head_dim]."""
    kv_heads, group, count, head_dim = query.shape
    first = query.permute(2, 0, 1, 3)
    if len(packed.groups) == 1 and not packed.alone:
        return _group(first, packed.groups[0].gathered, rules).reshape(count, -1, head_dim)
    if not packed.groups:
        attended = [_single(first[place], packed.spans[place], rules) for place in packed.alone]
        return torch.stack(attended).view(count, kv_heads * group, head_dim)
    out = torch.empty_like(first, memory_format=torch.contiguous_format)
    for lot in packed.groups:
        out[lot.places] = _group(first[lot.places], lot.gathered, rules)
    for place in packed.alone:
        out[place] = _single(first[place], packed.spans[place], rules)
    return out.view(count, kv_heads * group, head_dim)


def _single(query: Tensor, span: Span, rules: _Rules) -> Tensor:
    """A span of one token, which sees all it may see: no mask. query [kv_heads, group, head_dim] -> the same."""
    keys, values = span.kv.read(rules.layer, span.first_seen(rules.window), span.stop)
    if not rules.plain:
        return _special(query.unsqueeze(0), keys, values, None, rules)[0]
    return F.scaled_dot_product_attention(query.unsqueeze(0), keys, values, scale=rules.scaling)[0]


def _group(query: Tensor, gathered: Gathered, rules: _Rules) -> Tensor:
    """Spans of one token, query [spans, kv_heads, group, head_dim] -> the same."""
    keys, values = gathered.read(rules.layer, rules.window)
    seen = gathered.seen(rules.window)
    if not rules.plain:
        return _special(query, keys, values, seen.mask, rules)
    return F.scaled_dot_product_attention(query, keys, values, attn_mask=seen.added, scale=rules.scaling)


def _chunk(query: Tensor, span: Span, rules: _Rules, *, as_gpu: bool) -> Tensor:
    """Several tokens of one sequence, query [1, heads, count, head_dim] -> [count, heads, head_dim]."""
    window = rules.window if rules.window is not None and rules.window < span.stop else None
    keys, values = span.kv.read(rules.layer, span.first_seen(window), span.stop)
    grouped = keys.shape[1] != query.shape[1]
    if as_gpu and rules.plain and window is None and span.start and query.dtype != torch.float32:
        # The kernel that takes no mask, so needs no memory for one.
        bias: Any = causal_lower_right(span.count, span.stop)
        attended = F.scaled_dot_product_attention(
            query, keys, values, attn_mask=bias, scale=rules.scaling, enable_gqa=grouped
        )
        return attended[0].transpose(0, 1)
    mask = _mask(span, window, query.device)
    if rules.plain and (mask is None or not as_gpu):
        attended = F.scaled_dot_product_attention(
            query, keys, values, attn_mask=mask, is_causal=mask is None, scale=rules.scaling, enable_gqa=grouped
        )
        return attended[0].transpose(0, 1)
    if mask is None:
        mask = torch.ones(span.count, span.count, dtype=torch.bool, device=query.device).tril()
    _, kv_heads, _, head_dim = keys.shape
    of_each = query.reshape(1, kv_heads, -1, head_dim)  # the tokens of each head, head by head
    repeated = mask.repeat(query.shape[1] // kv_heads, 1)
    if rules.plain:  # a GPU's kernels take a mask or groups of heads, not both
        attended = F.scaled_dot_product_attention(of_each, keys, values, attn_mask=repeated, scale=rules.scaling)
    else:
        attended = _special(of_each, keys, values, repeated, rules)
    return attended.reshape(query.shape)[0].transpose(0, 1)


def _mask(span: Span, window: int | None, device: torch.device) -> Tensor | None:
    """Which of the tokens from `first_seen` on each token sees; None where that is just those up to itself."""
    if span.start == 0 and window is None:
        return None
    if window not in span.masks:
        first = span.first_seen(window)
        mask = torch.ones(span.count, span.stop - first, dtype=torch.bool, device=device).tril(span.start - first)
        span.masks[window] = mask if window is None else mask.triu(span.start - first - window + 1)
    return span.masks[window]


def _special(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, rules: _Rules) -> Tensor:
    """Attention with capped scores or sinks, which torch's own does not have. query [batch, kv_heads, n, head_dim]."""
    scaling = query.shape[-1] ** -0.5 if rules.scaling is None else rules.scaling
    scores = query @ keys.transpose(2, 3) * scaling
    if rules.softcap is not None:
        scores = torch.tanh(scores / rules.softcap) * rules.softcap
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    if rules.sinks is not None:
        _, kv_heads, count, _ = scores.shape
        of_heads = rules.sinks.view(kv_heads, -1)
        sinks = of_heads.repeat_interleave(count // of_heads.shape[1], dim=1).view(1, kv_heads, count, 1)
        scores = torch.cat((scores, sinks.to(scores.dtype).expand(len(scores), -1, -1, -1)), dim=-1)
    shares = scores.softmax(dim=-1, dtype=torch.float32).to(query.dtype)
    return shares[..., : keys.shape[2]] @ values


def register() -> None:
    """Makes the attention known to transformers under `NAME`; doing it again changes nothing."""
    AttentionInterface.register(NAME, packed_attention)
