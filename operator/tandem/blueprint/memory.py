"""What one GPU (or a process without one) needs for a model: weights, KV cache, activation; exact where layers are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import accumulate

from tandem.blueprint.activation import activation_bytes_per_token, logits_bytes
from tandem.blueprint.counts import layer_sequence_bytes, matrix_bytes, state_bytes
from tandem.blueprint.formats import Format
from tandem.blueprint.parts import Mixer, Weight
from tandem.blueprint.split import Split
from tandem.blueprint.structure import Layer, Run, Structure


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What is asked of one worker: `batch` sequences of `length` tokens, `step` tokens computed at once.

    `kv_bytes` is the size of one number of the cache, `value_bytes` of one number of a layer's result; the cache is
    kept in blocks of `block` tokens. `cache_tokens` are what it holds where that is less than all sequences at full
    length, which then wait for one another. The batch is that of `copies` copies of the attention layers. `reserved`:
    the engine sets room aside for whole steps, whatever is asked of it.
    """

    batch: int
    length: int
    step: int
    kv_bytes: int = 2
    value_bytes: int = 2
    block: int = 16
    cache_tokens: int | None = None
    copies: int = 1
    reserved: bool = False

    def in_cache(self, tokens: int) -> Load:
        """The same with a cache of that many tokens: what is computed at once must be in it."""
        return replace(self, cache_tokens=tokens, step=self.step_of(tokens))

    def step_of(self, tokens: int) -> int:
        """Tokens that are computed at once when there are no more than `tokens`."""
        return self.step if self.reserved else min(self.step, tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Bytes by part, for the GPU that needs the most."""

    weights: int
    kv: int
    activation: int
    reserve: int = 0

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.kv + self.activation + self.reserve


@dataclass(frozen=True, slots=True)
class Stage:
    """One GPU's share of a run of layers: bytes of its weights, and how many of its layers have which mixer."""

    weights: int
    mixers: tuple[tuple[int, Mixer | None], ...]


def stages_of(structure: Structure, split: Split, *, number: Format, quantised: Format | None) -> tuple[Stage, ...]:
    """The share of one GPU of each stage, with embedding and head in the first and last."""
    form = quantised or number
    shares = {
        id(kind.layer): _share(kind.layer.weights(structure.hidden), kind.layer, split, number, form)
        for kind in structure.kinds()
    }
    around = [0] * split.stages
    around[0] += _share(structure.embedding(), None, split, number, form)
    around[-1] += _share(_head(structure, split), None, split, number, form)
    return tuple(
        Stage(
            outside + sum(kind.count * shares[id(kind.layer)] for kind in kinds),
            tuple((kind.count, kind.layer.mixer) for kind in kinds),
        )
        for outside, kinds in zip(around, _cut_layers(structure, split.stages), strict=True)
    )


def worst_gpu(structure: Structure, stages: tuple[Stage, ...], load: Load, split: Split, *, reserve: int = 0) -> Parts:
    """The parts of the GPU that needs the most; stages differ in layers, embedding and head."""
    activation = load.step * activation_bytes_per_token(structure, load.value_bytes, across=split.dense)
    activation = max(activation, logits_bytes(structure, load.batch, load.value_bytes, across=split.attention))
    kv = [_cache(stage, load, split) for stage in stages]
    weights, most = max(zip((stage.weights for stage in stages), kv, strict=True), key=sum)
    return Parts(weights=weights, kv=most, activation=activation, reserve=reserve)


def _cache(stage: Stage, load: Load, split: Split) -> int:
    """Bytes of the cache of one copy of the attention layers; a state is kept for every sequence."""
    batch, across = -(-load.batch // split.copies), split.attention
    whole = states = 0
    for count, mixer in stage.mixers:
        whole += count * layer_sequence_bytes(mixer, load.length, load.kv_bytes, across=across, block=load.block)
        states += count * state_bytes(mixer, load.kv_bytes, across=across)
    most = batch * (whole - states)
    if load.cache_tokens is not None:
        most = min(most, -(-(whole - states) * load.cache_tokens // load.length))
    return most + batch * states


def _head(structure: Structure, split: Split) -> Iterator[Weight]:
    yield from structure.head()
    if structure.tied and split.stages > 1:
        # The last stage needs its own copy of the embedding.
        yield next(structure.embedding())


def _cut_layers(structure: Structure, stages: int) -> list[tuple[Run, ...]]:
    """The layers of each stage; those left over go to the last stages but one, as in vLLM."""
    if stages == 1:
        return [structure.kinds()]
    each = [run.layer for run in structure.runs for _ in range(run.count)]
    least, rest = divmod(len(each), stages)
    sizes = [least + (stages - rest - 1 <= index < stages - 1) for index in range(stages)]
    ends = list(accumulate(sizes))
    return [tuple(Run(1, layer) for layer in each[end - size : end]) for size, end in zip(sizes, ends, strict=True)]


def _share(weights: Iterable[Weight], layer: Layer | None, split: Split, number: Format, form: Format) -> int:
    """Bytes of one GPU's share."""
    total = 0
    for weight in weights:
        copies, across = weight.copies, split.dense
        if weight.group == "experts":
            copies, across = -(-copies // split.expert_groups), split.expert
        elif weight.group != "mlp":
            across = split.attention
        out, inp = weight.out, weight.inp
        if weight.cut == "out":
            out = _cut(out, weight.units, across)
        elif weight.cut == "in":
            inp = _cut(inp, weight.units, across)
        total += copies * matrix_bytes(weight, out, inp, layer=layer, number=number, quantised=form)
    return total


def _cut(values: int, units: int, across: int) -> int:
    """The share of one of `across` GPUs, in whole units: with more GPUs than units, some hold the same."""
    return -(-units // across) * (values // units) if across > 1 else values
