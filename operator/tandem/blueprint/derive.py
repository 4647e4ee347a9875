"""Defaults that follow from a model and the memory of a worker, for what nobody gave. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from tandem.blueprint.ask import load_of
from tandem.blueprint.fits import Room, judge
from tandem.blueprint.memory import Load
from tandem.blueprint.model import Blueprint
from tandem.blueprint.split import ONE, Split, split_of

# What engines take by themselves: memory says how many sequences may run at once, not how many should.
_MOST_SEQUENCES: Mapping[str, int] = {"torch": 16}
MAX_BATCH = 256
TYPICAL_TOKENS = 2048
# A length that is cut becomes a whole multiple of this: blocks of every engine fit into it.
_GRAIN = 256
_SHARED_OTHERWISE = (
    *("pipeline_parallel_size", "data_parallel_size", "moe_expert_parallel_size", "moe_tensor_parallel_size"),
    *("enable_attention_dp", "enable_expert_parallel"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Derived:
    """`parameters` that follow (unified names); a worker with them is to be judged by `load` and `split`.

    `fits` is False when there are no values that fit: the judgement then says what is missing.
    """

    parameters: Mapping[str, int] = field(default_factory=dict)
    load: Load
    split: Split
    fits: bool


def derive(
    blueprint: Blueprint,
    backend: str,
    given: Mapping[str, object],
    room: Room | None,
    *,
    gpus: int = 1,
    whole: bool = False,
    typical: int | None = None,
    waits: bool = False,
) -> Derived:
    """Defaults for parameters that `given` (unified names) lacks, for a worker of at most `gpus` GPUs with `room` each.

    In this order: as few GPUs as the longest sequence needs, or with `whole` all that can share the model; that
    sequence, shortened to what fits on them; as many sequences of `typical` tokens (2048) as fit, at most 256 (torch:
    16); a KV cache of all the memory that these can use. Without a room only the model's own length is known.
    `blueprint` is what `ask.served` gives. With `waits`, a batch size that is given says how many sequences may run,
    and not how many must have room at full length.
    """
    asked = _Asked(blueprint, backend, dict(given), room, waits=waits and given.get("max_batch_size") is not None)
    sized = asked.given("max_batch_size") and not asked.waits
    asked.settle("tensor_parallel_size", _tensor_parallel(asked, gpus, whole=whole))
    asked.settle("max_seq_len", _length(asked))
    asked.settle("max_batch_size", _batch(asked, typical or TYPICAL_TOKENS))
    load = asked.load()
    if room is not None and not sized:
        found = bounded(blueprint, load, asked.split(), room)
        fits = asked.fits(found)
        if fits and found != load and backend == "torch":
            asked.settle("kv_cache_max_tokens", found.cache_tokens)
        load = found if fits or asked.waits else load
    return Derived(parameters=asked.found, load=load, split=asked.split(), fits=asked.fits(load))


def bounded(blueprint: Blueprint, load: Load, split: Split, room: Room) -> Load:
    """A load whose sequences wait for one another where the memory cannot hold them all: its cache is what is left, and
    never less than one sequence needs."""
    if load.cache_tokens is not None or judge(blueprint, load, split, room).fits:
        return load

    def holds(blocks: int) -> bool:
        return judge(blueprint, load.in_cache(blocks * load.block), split, room).fits

    tokens = _most(-(-load.batch // split.copies) * load.length // load.block, holds) * load.block
    return load.in_cache(max(tokens, load.length))


class _Asked:
    """What stands so far: the values that were given and those that were found."""

    def __init__(
        self, blueprint: Blueprint, backend: str, values: dict[str, object], room: Room | None, *, waits: bool
    ) -> None:
        self.waits = waits
        self.blueprint = blueprint
        self.backend = backend
        self.room = room
        self.found: dict[str, int] = {}
        self._values = values

    def given(self, name: str) -> bool:
        return self._values.get(name) is not None

    def number(self, name: str) -> int | None:
        """A number above 0 that stands."""
        value = self._values.get(name)
        return value if type(value) is int and value > 0 else None

    @property
    def whole_prompts(self) -> int | None:
        """The longest prompt that an engine takes which computes prompts whole; None where it cuts them."""
        return self.number("max_num_tokens") if self._values.get("enable_chunked_prefill") is False else None

    def settle(self, name: str, value: int | None) -> None:
        """Keeps a value that was found, unless one is given."""
        if value is not None and not self.given(name):
            self._values[name] = self.found[name] = value

    def split(self, **changed: int) -> Split:
        return split_of(self.backend, {**self._values, **changed}) if self.room is None or self.room.gpu else ONE

    def load(self, **changed: int) -> Load:
        return load_of(self.backend, {**self._values, **changed}, self.blueprint, self.split(**changed))

    def least(self, **changed: int) -> Load:
        """The load of one sequence; where more run that wait for one another, with all of their states."""
        if not self.waits:
            return self.load(max_batch_size=1, **changed)
        load = self.load(**changed)
        return load.in_cache(load.cache_tokens or load.length)

    def fits(self, load: Load, **changed: int) -> bool:
        return self.room is None or judge(self.blueprint, load, self.split(**changed), self.room).fits


def _tensor_parallel(asked: _Asked, gpus: int, *, whole: bool) -> int | None:
    """The fewest GPUs, in powers of two, on which the longest sequence fits; else the most that can share the model.

    None where there are no GPUs, or the model is shared in a way that somebody gave.
    """
    others = any(asked.given(name) and asked.split() != ONE for name in _SHARED_OTHERWISE)
    if asked.room is None or not asked.room.gpu or asked.backend == "torch" or others:
        return None
    possible, powers = 1, [1 << power for power in range(gpus.bit_length())]
    for size in [*powers, gpus] if whole else powers:
        one = asked.least(tensor_parallel_size=size)
        split = asked.split(tensor_parallel_size=size)
        verdict = judge(asked.blueprint, one, split, asked.room)
        if verdict.fits and not whole:
            return size
        if not any(problem.path == "tensor_parallel_size" for problem in verdict.problems):
            possible = size
    return possible


def _length(asked: _Asked) -> int | None:
    """The longest sequence that fits; where none does, or all do, what the model says."""
    known, whole = asked.blueprint.max_seq_len, asked.whole_prompts
    longest = asked.least().length
    longest = longest if whole is None else min(longest, whole)
    if asked.fits(asked.least(max_seq_len=longest)):
        return None if known is None and whole is None else longest
    grains = _most(longest // _GRAIN, lambda count: asked.fits(asked.least(max_seq_len=count * _GRAIN)))
    return grains * _GRAIN or (None if known is None and whole is None else longest)


def _batch(asked: _Asked, typical: int) -> int | None:
    """How many sequences of `typical` tokens fit beside each other; None where nothing does, or nobody knows."""
    one = asked.load(max_batch_size=1)
    if asked.room is None or not asked.fits(one):
        return None
    tokens = min(typical, one.length)
    # Each running sequence takes one token of a step.
    most = min(_MOST_SEQUENCES.get(asked.backend, MAX_BATCH), asked.number("max_num_tokens") or MAX_BATCH)

    def fits(count: int) -> bool:
        """Side by side when they are short, and one after the other when they are long."""
        all_of_them = asked.load(max_batch_size=count)
        alone = all_of_them.in_cache(all_of_them.cache_tokens or all_of_them.length)
        return asked.fits(asked.load(max_batch_size=count, max_seq_len=tokens)) and asked.fits(alone)

    return max(1, _most(most, fits))


def _most(high: int, fits: Callable[[int], bool]) -> int:
    """The largest number from 1 to `high` that fits, 0 for none; what fits fits in smaller numbers too."""
    low, high = 0, high + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
