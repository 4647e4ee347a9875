"""Attention over packed tokens: the tokens of all sequences of a step stand in one row, without padding.

Registered with transformers' `AttentionInterface`; the model hands the `packed` keyword of its `forward` down to it.
No mask function is registered under the same name, so the models build no mask at all. What a layer sees is decided
here: all tokens before, or those within its sliding window.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.bias import causal_lower_right
from transformers import AttentionInterface

from tandem_serve.engine import kernels
from tandem_serve.engine.device import to_device
from tandem_serve.engine.kv_cache import KvMemory, SequenceKv
from tandem_serve.engine.singles import Rules, Singles, choose_lots, in_lots

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
    """The row of one step: first the spans of one token, lot after lot, then the longer ones."""

    memory: KvMemory
    singles: Singles | None
    chunks: tuple[Span, ...]
    """The longer spans."""
    rows: Tensor
    """Where in the memory the KV of each token goes."""
    as_gpu: bool
    """See `attends_as_gpu`."""
    few: bool = False
    """Whether those of one token see so few others that a second thread costs more than it gives."""
    windows: dict[int, int | None] = field(default_factory=dict)
    """By layer: the sliding window that the model asked for."""


def attends_as_gpu(device: torch.device) -> bool:
    """Whether all sequences that get one token attend in one call of torch's attention.

    On a CPU short ones of like length do: see `singles.choose_lots`.
    """
    return device.type != "cpu"


def pack(
    memory: KvMemory, parts: list[tuple[SequenceKv, int, int]], *, as_gpu: bool
) -> tuple[PackedBatch, tuple[int, ...]]:
    """A batch of (kv, start, count), those with count 1 first, and in which order they stand in its row.

    Their blocks are made ready for what the step will write.
    """
    ones = next((index for index, part in enumerate(parts) if part[2] > 1), len(parts))
    stops = [start + 1 for _, start, _ in parts[:ones]]
    lots = [list(range(ones))] if as_gpu else choose_lots(memory, stops)
    order = (*itertools.chain.from_iterable(lots), *range(ones, len(parts)))
    rows: list[int] = []
    for kv, start, count in (parts[place] for place in order):
        kv.begin(start, start + count)
        for _, row, neighbours in kv.pieces(start, start + count):
            rows.extend(range(row, row + neighbours))
    spans = [(kv, start + 1) for kv, start, _ in parts[:ones]]
    where = to_device(np.array(rows, dtype=np.int64), memory.layout.device)
    chunks = tuple(Span(*part) for part in parts[ones:])
    few = not as_gpu and sum(stops) * memory.layout.kv_heads * memory.layout.head_dim <= _OF_ONE_THREAD
    singles = in_lots(memory, spans, lots, copied=as_gpu) if ones else None
    return PackedBatch(memory, singles, chunks, where, as_gpu, few), order


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
    rules = Rules(layer, scaling, sliding_window, softcap, s_aux)
    out = []
    begin = 0
    if packed.singles is not None:
        # The heads that share a KV head stand side by side, as queries of it: nothing is repeated.
        of_tokens = query[0].transpose(0, 1).unflatten(1, (packed.memory.layout.kv_heads, -1))
        if packed.chunks:
            begin = len(packed.singles.stops)
            of_tokens = of_tokens[:begin]
        with _one_thread() if packed.few else contextlib.nullcontext():
            out.append(packed.singles.attend(of_tokens, rules).flatten(1, 2))
    for span in packed.chunks:
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


def _chunk(query: Tensor, span: Span, rules: Rules, *, as_gpu: bool) -> Tensor:
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
        attended = kernels.special(of_each, keys, values, repeated, rules.numbers)
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


def register() -> None:
    """Makes the attention known to transformers under `NAME`; doing it again changes nothing."""
    AttentionInterface.register(NAME, packed_attention)
