"""Which layer of a model is of which kind: the ways in which configurations say so."""

from __future__ import annotations

from collections.abc import Callable

from tandem.blueprint.reader import Reader, Switch, key

FULL, SLIDING = "full_attention", "sliding_attention"
_KINDS = (FULL, SLIDING)

# For each of n layers: the tokens it looks back (None: all of them); whether it has experts.
Windows = Callable[[Reader, int], "list[int | None]"]
Sparse = Callable[[Reader, int], "list[bool]"]


def no_window(_reader: Reader, count: int) -> list[int | None]:
    """Every layer sees everything."""
    return [None] * count


def same_window(default: int | None) -> Windows:
    """Every layer looks back `sliding_window` tokens."""

    def windows(reader: Reader, count: int) -> list[int | None]:
        return [_window(reader, default)] * count

    return windows


def switched_window(reader: Reader, count: int) -> list[int | None]:
    """Every layer looks back, when `use_sliding_window` is set (Qwen3-MoE)."""
    return [_window(reader, 4096) if _switched(reader) else None] * count


def upper_layers(reader: Reader, count: int) -> list[int | None]:
    """Layers from `max_window_layers` on look back, when `use_sliding_window` is set (Qwen2, Qwen3)."""
    first = reader.optional(key("max_window_layers", default=28, low=0)) or 0
    return _layers(reader, count, 4096, lambda index: index >= first, on=_switched(reader))


def odd_lower_layers(reader: Reader, count: int) -> list[int | None]:
    """Every other layer below `max_window_layers` looks back, when `use_sliding_window` is set (Qwen2-MoE)."""
    last = reader.optional(key("max_window_layers", default=28, low=0)) or 0
    return _layers(reader, count, 4096, lambda index: index % 2 == 0 and index < last, on=_switched(reader))


def all_but_each(period: int, window: int) -> Windows:
    """All layers look back but each `period`-th (Gemma 2 and 3, gpt-oss, Command-R7B)."""

    def windows(reader: Reader, count: int) -> list[int | None]:
        every = reader.optional(key("sliding_window_pattern", default=period)) or period
        return _layers(reader, count, window, lambda index: (index + 1) % every != 0)

    return windows


def chunked_layers(reader: Reader, count: int) -> list[int | None]:
    """All layers but each `no_rope_layer_interval`-th look back within chunks (Llama 4)."""
    chunk = reader.optional(key("attention_chunk_size", default=8192))
    if reader.config.get("attention_chunk_size", chunk) is None:
        chunk = None
    kinds = reader.words("layer_types", known=(FULL, "chunked_attention"), count=count)
    if kinds is not None:
        return [None if kind == FULL else chunk for kind in kinds]
    given = reader.config.get("no_rope_layers")
    if isinstance(given, list) and given:
        if len(given) != count or any(item not in (0, 1) for item in given):
            reader.refuse("no_rope_layers", f"{len(given)} items", f"one 0 or 1 is needed for each of {count} layers")
            return [None] * count
        return [chunk if item else None for item in given]
    every = reader.optional(key("no_rope_layer_interval", default=4)) or 4
    return [chunk if (index + 1) % every else None for index in range(count)]


def _layers(
    reader: Reader, count: int, default: int, sliding: Callable[[int], bool], *, on: bool = True
) -> list[int | None]:
    """By `layer_types` where the configuration has them, else by the family's habit."""
    window = _window(reader, default) if on else None
    kinds = reader.words("layer_types", known=_KINDS, count=count)
    if kinds is not None:
        return [window if kind == SLIDING else None for kind in kinds]
    return [window if sliding(index) else None for index in range(count)]


def _window(reader: Reader, default: int | None) -> int | None:
    # null switches it off; a key that is missing does not.
    if "sliding_window" in reader.config:
        return reader.optional(key("sliding_window", default=None))
    return default


def _switched(reader: Reader) -> bool:
    return reader.flag(Switch("use_sliding_window"))

    return reader.flag(Switch("use_sliding_window"))


def every_layer(_reader: Reader, count: int) -> list[bool]:
    """Every layer has experts."""
    return [True] * count


def after_first(default: int) -> Sparse:
    """All but the first `first_k_dense_replace` layers have experts (DeepSeek)."""

    def sparse(reader: Reader, count: int) -> list[bool]:
        first = reader.optional(key("first_k_dense_replace", default=default, low=0)) or 0
        return [index >= first for index in range(count)]

    return sparse


def interleaved(reader: Reader, count: int) -> list[bool]:
    """The layers of `moe_layers`, or each `interleave_moe_layer_step`-th, have experts (Llama 4)."""
    if reader.config.get("moe_layers") is not None:
        sparse = reader.numbers("moe_layers")
        return [index in sparse for index in range(count)]
    step = reader.optional(key("interleave_moe_layer_step", default=1)) or 1
    return [(index + 1) % step == 0 for index in range(count)]


def each_step(reader: Reader, count: int) -> list[bool]:
    """Each `decoder_sparse_step`-th layer has experts, but not those of `mlp_only_layers` (Qwen MoE)."""
    step = reader.optional(key("decoder_sparse_step", default=1)) or 1
    dense = reader.numbers("mlp_only_layers")
    return [index not in dense and (index + 1) % step == 0 for index in range(count)]


def period(reader: Reader, name: str, count: int, *, every: int, offset: int) -> list[bool]:
    """Whether each layer is at `NAME_offset` of its `NAME_period` (Jamba)."""
    length = reader.optional(key(f"{name}_period", default=every)) or every
    first = reader.optional(key(f"{name}_offset", default=offset, low=0)) or 0
    return [index % length == first for index in range(count)]
