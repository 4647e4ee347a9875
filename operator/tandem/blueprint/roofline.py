"""How fast a model can be at the very most on GPUs: from bytes and operations alone. Bounds, and no predictions.

A GPU that decodes reads every weight in use and the whole KV cache once per token; one that reads a prompt computes
every weight with every token. What engines and networks add is not in here, so real times are longer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from tandem.blueprint.counts import matrix_bytes, sequence_bytes
from tandem.blueprint.formats import plain
from tandem.blueprint.gpus import Speed
from tandem.blueprint.memory import Load
from tandem.blueprint.model import Blueprint
from tandem.blueprint.parts import Attention, Latent, Mixer, Weight
from tandem.blueprint.structure import Layer, Structure

_ASSUMED = "bfloat16"
# Not computed with: a token looks up one row of the embedding, and a text has no images.
_LOOKED_UP = frozenset(("embed_positions", "vision_tower"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Seconds to the first token of one prompt as long as the load's sequences, and per further token of the batch, at
    least; tokens per second of the whole batch, at most. `limited_by` says what a further token waits for.
    """

    first_token_seconds: float
    token_seconds: float
    tokens_per_second: float
    limited_by: Literal["memory", "compute"]


def bounds(blueprint: Blueprint, load: Load, speed: Speed, *, gpus: int = 1) -> Bounds | None:
    """The bounds of a worker whose `gpus` share everything without any loss; None when the layers are not known."""
    structure = blueprint.structure
    if structure is None:
        return None
    bandwidth, peak = gpus * speed.bandwidth, gpus * _peak(blueprint, speed)
    weights = _weight_bytes(blueprint, structure)
    prompt = 2 * (load.length * _used(structure, head=False) + _head(structure)) + _attention(structure, load.length)
    # Sequences that run beside each other have no more tokens than the cache.
    full = load.batch * load.length
    filled = 1.0 if load.cache_tokens is None else min(1.0, load.cache_tokens / full)
    cache = filled * load.batch * sequence_bytes(structure, load.length, load.kv_bytes)
    seen = filled * load.batch * _last_attention(structure, load.length)
    read = (weights + cache) / bandwidth
    computed = (2 * load.batch * _used(structure, head=True) + seen) / peak
    token = max(read, computed)
    return Bounds(
        first_token_seconds=max(prompt / peak, weights / bandwidth),
        token_seconds=token,
        tokens_per_second=load.batch / token,
        limited_by="memory" if read >= computed else "compute",
    )


def _peak(blueprint: Blueprint, speed: Speed) -> float:
    """Of the smallest format that the weights have: whoever widens them before is slower."""
    bits = blueprint.quantisation.format.bits if blueprint.quantisation else 16
    return speed.bits4 if bits <= 4 else speed.bits8 if bits <= 8 else speed.bits16


def _weight_bytes(blueprint: Blueprint, structure: Structure) -> int:
    """Bytes that a token cannot do without: of experts, those of one token, as all tokens may choose the same."""
    number = plain(blueprint.dtype or _ASSUMED)
    quantised = blueprint.quantisation.format if blueprint.quantisation else number
    return sum(
        times
        * _copies(structure, weight)
        * matrix_bytes(weight, weight.out, weight.inp, layer=layer, number=number, quantised=quantised)
        for times, weight, layer in _computed(structure, head=True)
    )


def _used(structure: Structure, *, head: bool) -> int:
    """Numbers that one token is multiplied with."""
    return sum(
        times * _copies(structure, weight) * weight.out * weight.inp
        for times, weight, _ in _computed(structure, head=head)
    )


def _head(structure: Structure) -> int:
    return structure.vocab * structure.hidden


def _copies(structure: Structure, weight: Weight) -> int:
    experts = structure.experts()
    return min(weight.copies, experts.per_token) if experts and weight.group == "experts" else weight.copies


def _computed(structure: Structure, *, head: bool) -> Iterator[tuple[int, Weight, Layer | None]]:
    """(how often, weight, its layer) of what a token is multiplied with."""
    for run in structure.kinds():
        for weight in run.layer.weights(structure.hidden):
            if weight.name not in _LOOKED_UP:
                yield run.count, weight, run.layer
    if head:
        # A tied head is the embedding.
        yield 1, Weight("lm_head", structure.vocab, structure.hidden, "embedding"), None


def _attention(structure: Structure, length: int) -> int:
    """Operations between the tokens of one prompt, each with those before it that its layer looks at."""
    total = 0
    for run in structure.kinds():
        window = _window(run.layer.mixer, length)
        # The first `window` tokens see all before them, the others `window` each.
        seen = window * (window + 1) // 2 + (length - window) * window
        total += run.count * _pair(run.layer.mixer) * seen
    return total


def _last_attention(structure: Structure, length: int) -> int:
    """Operations of one token with those before it."""
    return sum(run.count * _pair(run.layer.mixer) * _window(run.layer.mixer, length) for run in structure.kinds())


def _window(mixer: Mixer | None, length: int) -> int:
    window = mixer.window if isinstance(mixer, Attention) else None
    return length if window is None else min(length, window)


def _pair(mixer: Mixer | None) -> int:
    """Operations of all heads for one token and one before it: the score, and the share of its value."""
    if isinstance(mixer, Attention):
        return 4 * mixer.heads * mixer.head_dim
    if isinstance(mixer, Latent):
        return 2 * mixer.heads * (mixer.nope_dim + mixer.rope_dim + mixer.v_dim)
    return 0
