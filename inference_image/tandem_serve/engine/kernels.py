"""What decode steps compute beside the model's own code, in the part of Python that torch.jit.script takes.

The same functions run as Python and, in a traced step, by torch's interpreter (see `traced`), where their loops and
conditions stay what they are; a trace alone would freeze them. They use nothing but their arguments and torch.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

_Result = TypeVar("_Result")
RuleNumbers = tuple[float | None, int | None, float | None, Tensor | None]
"""How a layer attends: scaling, window, cap of the scores, and of each head the score of a place that takes attention
and gives nothing."""


@functools.cache
def _scripted(kernel: Callable[..., Any]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.script(kernel)


def call(kernel: Callable[..., _Result], *given: Any) -> _Result:
    """What the kernel makes of what is given: as Python, or as a part of the step that is being traced."""
    tracing: bool = torch.jit.is_tracing()  # type: ignore[attr-defined,no-untyped-call]
    result: _Result = (_scripted(kernel) if tracing else kernel)(*given)
    return result


def rows_computed(rows: int) -> int:
    """With how many rows a product of so many is computed: up to 32 as they are, then 8 numbers for each doubling.

    oneDNN makes code for each number of rows and each shape of weights, half a megabyte and a millisecond, and keeps
    it: of 5 shapes and all numbers up to 512 that was 0.7 to 1.2 GB. Less than an eighth of the rows is added.
    """
    step = 1
    while rows > 32 and rows > 16 * step:
        step *= 2
    return (rows + step - 1) // step * step


def filled_up(tokens: Tensor) -> Tensor:
    """Rows of zeros after [rows, inputs], so that there are `rows_computed`."""
    added = rows_computed(tokens.shape[0]) - tokens.shape[0]
    return F.pad(tokens, [0, 0, 0, added]) if added > 0 else tokens


def packed_product(tokens: Tensor, weight: Tensor, bias: Tensor | None, outputs: int) -> Tensor:
    """A linear layer whose weight is laid out for the CPU: [tokens, inputs] -> [tokens, outputs]."""
    if tokens.shape[0] == 0:
        return tokens.new_empty([0, outputs])
    product: Tensor = torch.ops.mkldnn._linear_pointwise(filled_up(tokens), weight, bias, "none", [], "")
    return product[: tokens.shape[0]]


def int8_product(tokens: Tensor, weights: Tensor, scales: Tensor, few: int, part: int) -> Tensor:
    """A linear layer of 8-bit integers: [tokens, inputs] -> [tokens, outputs].

    For up to `few` tokens they are multiplied as they are; for more, `part` outputs at once are converted first.
    """
    if tokens.shape[0] == 0:
        return tokens.new_empty([0, weights.shape[0]])
    if tokens.shape[0] <= few:
        return torch._weight_int8pack_mm(tokens, weights, scales)
    more = filled_up(tokens)
    products = [F.linear(more, some.to(tokens.dtype)) for some in weights.split(part)]
    return (products[0] if len(products) == 1 else torch.cat(products, dim=-1))[: tokens.shape[0]] * scales


def blocks_seen(blocks: int, window: int | None, block_tokens: int) -> int:
    """How many of a sequence's blocks are read for the last `window` tokens."""
    return blocks if window is None else min(blocks, (window + block_tokens - 1) // block_tokens + 1)


def look(
    blocks: Tensor, stops: Tensor, lots: Tensor, first_of_heads: Tensor, numbers: tuple[int | None, int, int]
) -> tuple[Tensor, Tensor]:
    """What the spans see whose blocks are copied; `singles.Singles` says what blocks, stops and lots are.

    Returns which of `KvMemory.whole`, for each lot [2 (keys, values), spans, kv_heads, blocks seen], and which of their
    tokens are seen, for each lot [spans, blocks seen * block_tokens]; both flat, lot after lot.
    `numbers`: window, the block of zeros, tokens of a block.
    """
    window, zeros, block_tokens = numbers
    of_heads = [blocks.new_empty([0])]
    masks = [torch.empty([0], dtype=torch.bool, device=blocks.device)]
    first_span, first_block = 0, 0
    for lot in torch.jit.annotate(list[list[int]], lots.tolist()):
        spans, count, row = lot[0], lot[1], lot[2]
        if row < 0:
            table = blocks[first_block : first_block + spans * count].view(spans, count)
            ends = stops[first_span : first_span + spans].unsqueeze(1)
            few = blocks_seen(count, window, block_tokens)
            columns = torch.arange(few, device=blocks.device).unsqueeze(0)
            if window is not None and few < count:
                first = torch.div((ends - window).clamp_min(0), block_tokens, rounding_mode="floor")
                columns = first + columns
                table = table.gather(1, columns.clamp_max(count - 1)).masked_fill(columns >= count, zeros)
            places = torch.arange(block_tokens, device=blocks.device) + columns.unsqueeze(2) * block_tokens
            places = places.flatten(1)
            mask = places < ends
            if window is not None:
                mask = mask & (places >= ends - window)
            masks.append(mask.flatten())
            of_heads.append((first_of_heads[:, None, :, None] + table[None, :, None, :]).flatten())
            first_block += spans * count
        first_span += spans
    return torch.cat(of_heads), torch.cat(masks)


def attend(
    query: Tensor, memory: tuple[Tensor, Tensor], seen: tuple[Tensor, Tensor, Tensor], lots: Tensor, rules: RuleNumbers
) -> Tensor:
    """Spans of one token, query [spans, kv_heads, group, head_dim] -> the same.

    `memory`: rows and whole of the layer, see `KvMemory`. `seen`: what `look` found, and the mask as numbers to add to
    scores. `lots`: see `singles.Singles`.
    """
    rows, whole = memory
    of_heads, mask, added = seen
    scaling, window, softcap, sinks = rules
    plain = softcap is None and sinks is None
    kv_heads, head_dim = query.shape[1], query.shape[3]
    block_tokens = whole.shape[1] // head_dim
    out: list[Tensor] = []
    first_span, first_block, first_token = 0, 0, 0
    for lot in torch.jit.annotate(list[list[int]], lots.tolist()):
        spans, row, stop = lot[0], lot[2], lot[3]
        of_lot = query[first_span : first_span + spans]
        first_span += spans
        if row >= 0:  # the sequence stands in one run, and what it sees is read where it is
            first = 0 if window is None else max(0, stop - window)
            read = rows.narrow(2, row + first, stop - first).unsqueeze(1)
            if plain:
                out.append(F.scaled_dot_product_attention(of_lot, read[0], read[1], scale=scaling))
            else:
                out.append(special(of_lot, read[0], read[1], None, rules))
        else:
            blocks = blocks_seen(lot[1], window, block_tokens)
            copies, tokens = 2 * spans * kv_heads * blocks, blocks * block_tokens
            read = whole.index_select(0, of_heads[first_block : first_block + copies])
            read = read.view(2, spans, kv_heads, tokens, head_dim)
            places = slice(first_token, first_token + spans * tokens)
            if plain:
                bias = added[places].view(spans, 1, 1, tokens)
                out.append(F.scaled_dot_product_attention(of_lot, read[0], read[1], attn_mask=bias, scale=scaling))
            else:
                of_spans = mask[places].view(spans, 1, 1, tokens)
                out.append(special(of_lot, read[0], read[1], of_spans, rules))
            first_block += copies
            first_token += spans * tokens
    return out[0] if len(out) == 1 else torch.cat(out)


def special(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, rules: RuleNumbers) -> Tensor:
    """Attention that torch's own does not have: with capped scores, or with sinks.

    query is [batch, kv_heads, n, head_dim].
    """
    scaling, _, softcap, sinks = rules
    scores = query @ keys.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    if sinks is not None:
        kv_heads, count = scores.shape[1], scores.shape[2]
        of_heads = sinks.view(kv_heads, -1)
        of_rows = of_heads.repeat_interleave(count // of_heads.shape[1], dim=1).view(1, kv_heads, count, 1)
        scores = torch.cat((scores, of_rows.to(scores.dtype).expand(scores.shape[0], -1, -1, -1)), dim=-1)
    shares = scores.softmax(dim=-1, dtype=torch.float32).to(query.dtype)
    return shares[..., : keys.shape[2]] @ values
