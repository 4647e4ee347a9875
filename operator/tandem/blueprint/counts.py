"""Exact counts and bytes of a structure: parameters, weights, KV cache. Closed forms; nothing is allocated."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tandem.blueprint.formats import Format
from tandem.blueprint.parts import Attention, Latent, Mamba, Mamba2, Mixer, Weight
from tandem.blueprint.structure import Layer, Structure

# Router corrections are kept in float32 by every engine.
_BUFFER_BYTES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """`total` numbers that generating text needs, of which one token uses `active`.

    `buffers` are those of `total` that are stored but are no parameters; `further` are stored beside `total`, to
    predict more than the next token.
    """

    total: int
    active: int
    buffers: int
    further: int

    @property
    def parameters(self) -> int:
        """What the transformers library counts as parameters."""
        return self.total - self.buffers


def counts(structure: Structure) -> Counts:
    """Counts of everything."""
    total = active = buffers = 0
    experts = structure.experts()
    for times, weight in structure.weights():
        values = times * weight.values
        total += values
        buffers += values if weight.buffer else 0
        routed = experts is not None and weight.group == "experts"
        active += values // weight.copies * experts.per_token if routed and experts is not None else values
    further = sum(times * weight.values for times, weight in structure.further())
    return Counts(total=total, active=active, buffers=buffers, further=further)


def matrix_bytes(weight: Weight, out: int, inp: int, *, layer: Layer | None, number: Format, quantised: Format) -> int:
    """Bytes of one copy of `out` × `inp` values of a weight, which is in `layer` or outside of all layers."""
    if weight.buffer:
        return out * inp * _BUFFER_BYTES
    if layer is not None and weight.linear and weight.name not in layer.plain:
        return quantised.bytes_of(out, inp)
    return number.bytes_of(out, inp)


def weight_bytes(
    structure: Structure, number: Format, quantised: Format | None = None, *, embedding: Format | None = None
) -> int:
    """Bytes of what is loaded to generate text, vectors in `number`, and embeddings too unless they have a format."""
    form = quantised or number

    def summed(weights: Iterable[Weight], layer: Layer | None) -> int:
        return sum(
            weight.copies
            * matrix_bytes(weight, weight.out, weight.inp, layer=layer, number=rest(weight), quantised=form)
            for weight in weights
        )

    def rest(weight: Weight) -> Format:
        return embedding if embedding is not None and weight.group == "embedding" and weight.inp > 1 else number

    around = summed(structure.embedding(), None) + summed(structure.head(), None)
    return around + sum(run.count * summed(run.layer.weights(structure.hidden), run.layer) for run in structure.kinds())


def further_bytes(structure: Structure, number: Format, quantised: Format | None = None) -> int:
    """Bytes of what is stored to predict further tokens, and loaded only for that."""
    last = structure.runs[-1].layer
    return sum(
        times
        * weight.copies
        * matrix_bytes(weight, weight.out, weight.inp, layer=last, number=number, quantised=quantised or number)
        for times, weight in structure.further()
    )


def token_bytes(mixer: Mixer | None, size: int, *, across: int = 1) -> int:
    """KV cache bytes of one token in one layer, on one of `across` GPUs that share its heads.

    A head cannot be cut, so more GPUs than heads hold copies; the compressed vector of latent attention is on all.
    """
    if isinstance(mixer, Attention):
        return 2 * -(-mixer.kv_heads // across) * mixer.head_dim * size
    if isinstance(mixer, Latent):
        return (mixer.kv_rank + mixer.rope_dim) * size
    return 0


def state_bytes(mixer: Mixer | None, size: int, *, across: int = 1) -> int:
    """Bytes that one sequence takes in one layer whatever its length: the state of a state space layer."""
    if isinstance(mixer, Mamba):
        inner = -(-mixer.inner // across)
        return inner * (mixer.state * (mixer.state_bytes or size) + (mixer.conv - 1) * size)
    if isinstance(mixer, Mamba2):
        heads, groups = -(-mixer.heads // across), -(-mixer.groups // across)
        width = heads * mixer.head_dim
        state = width * mixer.state * (mixer.state_bytes or size)
        return state + (width + 2 * groups * mixer.state) * (mixer.conv - 1) * size
    return 0


def layer_sequence_bytes(mixer: Mixer | None, length: int, size: int, *, across: int = 1, block: int = 1) -> int:
    """Cache bytes of one sequence of `length` tokens in one layer, in whole blocks of `block` tokens."""
    window = mixer.window if isinstance(mixer, Attention) else None
    kept = length if window is None else min(length, window)
    per_token = token_bytes(mixer, size, across=across)
    return -(-kept // block) * block * per_token + state_bytes(mixer, size, across=across)


def kv_bytes_per_token(structure: Structure, size: int) -> int:
    """Bytes of each further token of one sequence, as long as no window is full, over all layers."""
    return sum(run.count * token_bytes(run.layer.mixer, size) for run in structure.kinds())


def sequence_bytes(structure: Structure, length: int, size: int, *, across: int = 1, block: int = 1) -> int:
    """Cache bytes of one sequence of `length` tokens over all layers."""
    return sum(
        run.count * layer_sequence_bytes(run.layer.mixer, length, size, across=across, block=block)
        for run in structure.kinds()
    )
