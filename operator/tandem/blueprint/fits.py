"""Does it fit: what a worker needs of each GPU against what the GPU has, as numbers. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from tandem.api.problems import Problem
from tandem.blueprint.counts import further_bytes, weight_bytes
from tandem.blueprint.formats import Format, fp8_block, plain
from tandem.blueprint.memory import Load, Parts, stages_of, worst_gpu
from tandem.blueprint.model import Blueprint
from tandem.blueprint.parts import Attention, Experts, Feed, Latent, Mixer, Mlp
from tandem.blueprint.split import Split, tensor_parallel
from tandem.blueprint.structure import Structure

GIB = 2**30
# CUDA context, communication buffers and recorded graphs of one GPU process; measure it where it matters.
GPU_RESERVE = 2 * GIB
# What the bundled server takes beside the parts above: 614 to 803 MiB, measured on models of 58 M to 710 M parameters.
CPU_RESERVE = 776 * 2**20
_ASSUMED = "bfloat16"
_TENSOR_SIZES = (2, 4, 8, 16, 32, 64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """`memory` bytes of one GPU, or of a process without one (`gpu` is then False).

    A worker may use the share `usable` of it, and needs `reserve` bytes for the runtime itself.
    """

    memory: int
    usable: float = 0.9
    reserve: int = GPU_RESERVE
    gpu: bool = True

    @property
    def available(self) -> int:
        """Bytes that may be used."""
        return int(self.memory * self.usable)


@dataclass(frozen=True, slots=True)
class Change:
    """One change that alone makes it fit: a parameter, its new value, and the bytes that are needed then."""

    parameter: str
    value: int | str
    needed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether it fits, with the bytes per GPU; `problems` say what cannot work whatever the memory."""

    fits: bool
    needed: int
    available: int
    parts: Parts
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        word = "fits" if self.fits else "does not fit" if self.needed > self.available else "cannot run"
        parts = (
            f"weights {shown(self.parts.weights)}, KV cache {shown(self.parts.kv)}, "
            f"activation {shown(self.parts.activation)}, runtime {shown(self.parts.reserve)}"
        )
        told = f"{word}: needs {shown(self.needed)} of {shown(self.available)} ({parts})"
        return "; ".join((told, *(str(problem) for problem in self.problems)))


def shown(size: float) -> str:
    """Bytes for people."""
    return f"{size / GIB:.2f} GiB" if size == 0 or size >= GIB / 10 else f"{size / 2**20:.2f} MiB"


def judge(blueprint: Blueprint, load: Load, split: Split, room: Room) -> Verdict:
    """The verdict; never raises. What the blueprint does not know is told in `notes`."""
    parts, notes = _parts(blueprint, load, split, room)
    problems = tuple(_problems(blueprint, load, split))
    return Verdict(
        fits=parts.total <= room.available and not problems,
        needed=parts.total,
        available=room.available,
        parts=parts,
        problems=problems,
        notes=notes,
    )


def changes(
    blueprint: Blueprint,
    load: Load,
    split: Split,
    room: Room,
    *,
    fp8: bool = True,
    shareable: bool = True,
    shared: Callable[[int], tuple[Load, Split]] | None = None,
) -> tuple[Change, ...]:
    """Changes that each make it fit, the least intrusive first: batch, length, number formats, more GPUs.

    With `fp8`, the backend can keep the cache, and make the weights, in 8 bits; `shareable`: GPUs can share a model on
    it. `shared` gives load and split for a tensor parallel size; without it everything is cut.
    """

    def needed(load: Load = load, split: Split = split, form: Format | None = None) -> int | None:
        parts, _ = _parts(blueprint, load, split, room, form=form)
        wrong = any(_problems(blueprint, load, split))
        return None if wrong or parts.total > room.available else parts.total

    found = [
        _most(
            "max_batch_size",
            load.batch // load.copies,
            lambda value: needed(replace(load, batch=value * load.copies, step=load.step_of(value * load.length))),
        ),
        _most(
            "max_seq_len",
            load.length,
            lambda value: needed(replace(load, length=value, step=load.step_of(load.batch // load.copies * value))),
        ),
    ]
    if fp8:
        if load.kv_bytes > 1:
            found.append(_one("kv_cache_dtype", "fp8", needed(replace(load, kv_bytes=1))))
        if blueprint.structure is not None and blueprint.quantisation is None:
            found.append(_one("weights", "fp8", needed(form=fp8_block())))
    if shareable and room.gpu and split.copies == split.stages == 1 == split.expert_groups:
        larger = [size for size in _TENSOR_SIZES if size > split.attention]
        # Fewer, where so many cannot share it.
        fewer = [size for size in (*reversed(_TENSOR_SIZES), 1) if size < split.attention]
        share = shared or (lambda size: (load, tensor_parallel(size)))
        sizes = ((size, needed(*share(size))) for size in (*larger, *fewer))
        size, bytes_needed = next(((size, total) for size, total in sizes if total is not None), (0, None))
        found.append(_one("tensor_parallel_size", size, bytes_needed))
    return tuple(change for change in found if change is not None)


def _one(parameter: str, value: int | str, needed: int | None) -> Change | None:
    return None if needed is None else Change(parameter, value, needed)


def _most(parameter: str, asked: int, needed: Callable[[int], int | None]) -> Change | None:
    """The largest value below what is asked that fits; more never needs less."""
    low, high = 0, asked
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if needed(middle) is not None else (low, middle)
    return _one(parameter, low, needed(low)) if low else None


def _parts(
    blueprint: Blueprint, load: Load, split: Split, room: Room, *, form: Format | None = None
) -> tuple[Parts, tuple[str, ...]]:
    structure = blueprint.structure
    if structure is None:
        return _declared(blueprint, load, split, room)
    number = plain(blueprint.dtype or _ASSUMED)
    quantised = form or (blueprint.quantisation.format if blueprint.quantisation else None)
    stages = stages_of(structure, split, number=number, quantised=quantised)
    parts = worst_gpu(structure, stages, load, split, reserve=room.reserve)
    notes: tuple[str, ...] = () if blueprint.dtype else (f"config.json names no dtype: {_ASSUMED} is assumed",)
    if blueprint.uncounted and blueprint.weights_from != "index":
        notes += (f"the weights of its other parts ({', '.join(blueprint.uncounted)}) are not counted",)
    if blueprint.weights_from == "index" and blueprint.weight_bytes and form is None:
        whole = _stored(structure, blueprint.weight_bytes, number, quantised)
        parts = replace(parts, weights=-(-parts.weights * blueprint.weight_bytes // whole))
    return parts, notes


def _stored(structure: Structure, held: int, number: Format, quantised: Format | None) -> int:
    """What files that hold `held` bytes should hold: some have a tied head, and layers for further tokens, too."""
    loaded = weight_bytes(structure, number, quantised)
    head = number.bytes_of(structure.vocab, structure.hidden) if structure.tied else 0
    further = further_bytes(structure, number, quantised)
    return max(
        (size for size in (loaded + head, loaded + further, loaded + head + further) if size <= held), default=loaded
    )


def _declared(blueprint: Blueprint, load: Load, split: Split, room: Room) -> tuple[Parts, tuple[str, ...]]:
    """From declared numbers alone: every part shared evenly."""
    across = max(1, split.attention * split.stages)
    tokens = -(-load.batch // split.copies) * load.length
    tokens = tokens if load.cache_tokens is None else min(tokens, load.cache_tokens)
    kv = (blueprint.kv_bytes_per_token or 0) * tokens
    parts = Parts(
        weights=-(-(blueprint.weight_bytes or 0) // across),
        kv=-(-kv // across),
        activation=blueprint.activation_bytes or 0,
        reserve=room.reserve,
    )
    names = ("weight_bytes", "kv_bytes_per_token", "activation_bytes")
    unknown = [name for name in names if getattr(blueprint, name) is None]
    return parts, tuple(f"{name} is not known, and counts as nothing" for name in unknown)


def _problems(blueprint: Blueprint, load: Load, split: Split) -> Iterator[Problem]:
    longest = blueprint.max_seq_len
    if longest is not None and load.length > longest:
        reason = f"the model takes sequences of at most {longest} tokens"
        yield Problem("max_seq_len", str(load.length), reason, f"Use at most {longest}.")
    structure = blueprint.structure
    if structure is None:
        return
    if split.stages > structure.layers:
        fix = f"Use at most {structure.layers}."
        yield Problem("pipeline_parallel_size", str(split.stages), f"the model has {structure.layers} layers", fix)
    found = dict.fromkeys(_uneven_parts(structure, split))
    if any(problem.path == "tensor_parallel_size" for problem in found) and split == tensor_parallel(split.attention):
        fix = f"Use one of {', '.join(map(str, _even_sizes(structure)))}."
        found = dict.fromkeys(replace(problem, fix=fix) for problem in found)
    yield from found


def _even_sizes(structure: Structure) -> list[int]:
    """Numbers of GPUs that can share every part: one part alone may be shared by sizes that another cannot."""
    mixers = (run.layer.mixer for run in structure.kinds())
    heads = next((mixer.heads for mixer in mixers if isinstance(mixer, Attention | Latent)), 0)
    sizes = [size for size in range(1, 65) if heads % size == 0]
    return [size for size in sizes if not any(_uneven_parts(structure, tensor_parallel(size)))]


def _uneven_parts(structure: Structure, split: Split) -> Iterator[Problem]:
    for run in structure.kinds():
        yield from _uneven_mixer(run.layer.mixer, split)
        yield from _uneven_feed(run.layer.feed, split)


def _uneven_mixer(mixer: Mixer | None, split: Split) -> Iterator[Problem]:
    if isinstance(mixer, Attention | Latent):
        yield from _uneven("tensor_parallel_size", split.attention, mixer.heads, "attention heads")
    if isinstance(mixer, Attention) and split.attention % mixer.kv_heads:
        yield from _uneven("tensor_parallel_size", split.attention, mixer.kv_heads, "KV heads")


def _uneven_feed(feed: Feed | None, split: Split) -> Iterator[Problem]:
    if isinstance(feed, Mlp):
        yield from _uneven("tensor_parallel_size", split.dense, feed.inner, "columns of an MLP")
    elif isinstance(feed, Experts):
        yield from _uneven("moe_expert_parallel_size", split.expert_groups, feed.count, "experts")
        yield from _uneven("tensor_parallel_size", split.expert, feed.inner, "columns of an expert")


def _uneven(parameter: str, size: int, number: int, what: str) -> Iterator[Problem]:
    if number % size:
        near = [str(other) for other in range(1, min(number, 64) + 1) if number % other == 0]
        fix = f"Use one of {', '.join(near)}."
        yield Problem(parameter, str(size), f"{number} {what} cannot be shared evenly by {size} GPUs", fix)
