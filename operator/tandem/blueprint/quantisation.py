"""What `quantization_config` says: the format of quantised matrices, and which modules keep the model's own."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from tandem.blueprint import formats
from tandem.blueprint.formats import Format
from tandem.blueprint.reader import Reader, Switch, key
from tandem.blueprint.structure import Layer

Pieces = tuple[str, ...]

_LAYER = re.compile(r"(?:^|\.)layers?\.(\d{1,6})(?=\.|$)")
_MAX_PATTERNS = 65_536  # characters; above, matching them would take seconds
_CHOICE = re.compile(r"\((?:\?:)?([^()\[\]]*)\)(?![*+?{])|\[([A-Za-z0-9_]+)\](?![*+?{])")
_MOST_CHOICES = 64
_LONGEST_WITH_CHOICES = 512
_REGEX_ONLY = re.compile(r"[\[\](){}|+^?\\]")
_FIX = "Give the model's safetensors index, whose bytes are then taken as they are."


@dataclass(frozen=True, slots=True)
class Quantisation:
    """`method` as the configuration calls it, and the format of the matrices that it quantises."""

    method: str
    format: Format


def read_quantisation(config: Reader) -> tuple[Quantisation | None, tuple[str, ...]]:
    """The quantisation (None: there is none) and the patterns of module names that it leaves out."""
    reader = config.part("quantization_config")
    if not reader.config:
        return None, ()
    method = reader.config.get("quant_method")
    form = _FORMATS.get(method) if isinstance(method, str) else None
    if form is None:
        reader.refuse("quant_method", method, f"this is none of {', '.join(_FORMATS)}", _FIX)
        return None, ()
    found = form(reader)
    return (None if found is None else Quantisation(str(method), found)), _ignored(reader)


def mark_plain(layers: list[Layer], patterns: Iterable[str], hidden: int) -> list[Layer]:
    """The layers with the modules that patterns name marked as not quantised."""
    everywhere: list[Pieces] = []
    single: dict[int, list[Pieces]] = {}
    for pattern in (each for given in patterns for each in _spelt(given)):
        number = _LAYER.search(pattern)
        if number is None:
            everywhere.append(_pieces(pattern))
        else:
            single.setdefault(int(number[1]), []).append(_pieces(pattern))
    if not (everywhere or single):
        return layers
    names = {layer: _linear(layer, hidden) for layer in dict.fromkeys(layers)}
    plain = {layer: _found(everywhere, names[layer], 0) for layer in names}
    made: dict[tuple[Layer, tuple[str, ...]], Layer] = {}
    marked = []
    for index, layer in enumerate(layers):
        kept = tuple(sorted(plain[layer] | _found(single.get(index, ()), names[layer], index)))
        marked.append(made.setdefault((layer, kept), replace(layer, plain=kept)))
    return marked


def _linear(layer: Layer, hidden: int) -> frozenset[str]:
    return frozenset(weight.name for weight in layer.weights(hidden) if weight.linear)


def _found(patterns: Iterable[Pieces], names: frozenset[str], index: int) -> frozenset[str]:
    return frozenset(
        name for name in names if any(_matches(pieces, f".model.layers.{index}.{name}.") for pieces in patterns)
    )


def _spelt(pattern: str) -> list[str]:
    """What an expression with choices, `(q|k)_proj` or `[qk]_proj`, stands for; itself where that is too much."""
    if not pattern.startswith("re:") or len(pattern) > _LONGEST_WITH_CHOICES:
        return [pattern]
    done: list[str] = []
    rest = [pattern.replace("\\.", ".")]
    while rest:
        text = rest.pop()
        found = _CHOICE.search(text)
        if found is None:
            done.append(text)
            continue
        choices = list(found[2]) if found[1] is None else found[1].split("|")
        rest += [f"{text[: found.start()]}{choice}{text[found.end() :]}" for choice in choices]
        if len(done) + len(rest) > _MOST_CHOICES:
            return [pattern]
    return done


def _pieces(pattern: str) -> Pieces:
    """A pattern as the texts that must follow each other. Regular expressions (`re:…`) are read as texts with `.*`;
    one that goes beyond that, and beyond choices, matches nothing."""
    text = pattern.removeprefix("re:").removeprefix("^").removesuffix("$").replace("\\.", ".")
    for anything in (".*", "\\d*", "\\d+"):
        text = text.replace(anything, "*")
    # Models of several parts name the language model before its modules.
    text = text.removeprefix("model.language_model.").removeprefix("language_model.")
    if _REGEX_ONLY.search(text):
        return ("\n",)
    begin = "" if text.startswith("*") else "."
    return tuple(piece for piece in f"{begin}{text.strip('.')}{'' if text.endswith('*') else '.'}".split("*") if piece)


def _matches(pieces: Pieces, name: str) -> bool:
    """Whether a module's name, or that of one it is in, is what a pattern says."""
    at = 0
    for piece in pieces:
        found = name.find(piece, at)
        if found < 0:
            return False
        at = found + len(piece)
    return True


def _ignored(reader: Reader) -> tuple[str, ...]:
    found: list[str] = []
    for name in ("modules_to_not_convert", "ignore", "exclude_modules", "ignored_layers"):
        value = reader.config.get(name)
        if value is None:
            continue
        if not isinstance(value, list) or any(not isinstance(item, str) for item in value):
            reader.refuse(name, value, "a list of module names is needed here")
            continue
        if sum(len(item) for item in value if _LAYER.search(item) is None) > _MAX_PATTERNS:
            reader.refuse(name, f"{len(value)} patterns", "these are too many patterns", _FIX)
            continue
        found += value
    return tuple(found)


def _fp8(reader: Reader) -> Format:
    size = reader.config.get("weight_block_size")
    if size is None:
        return formats.FP8_TENSOR
    if not (isinstance(size, list) and len(size) == 2 and all(type(item) is int and item > 0 for item in size)):
        reader.refuse("weight_block_size", size, "two whole numbers are needed here")
        return formats.FP8_TENSOR
    return formats.fp8_block(*size)


def _grouped(name: str, *, reordered: bool) -> Callable[[Reader], Format]:
    def form(reader: Reader) -> Format:
        zeros = reader.flag(Switch("zero_point", True)) if name == "awq" else True
        return formats.integers(
            reader.number(key("bits", "w_bit", default=4, high=8)),
            group=reader.number(key("group_size", "q_group_size", default=128, low=-1)),
            zero_points=zeros,
            columns_reordered=reordered,
            name=name,
        )

    return form


def _bits_and_bytes(reader: Reader) -> Format:
    return formats.NF4 if reader.flag(Switch("load_in_4bit")) else formats.INT8_CHANNEL


def _modelopt(reader: Reader) -> Format | None:
    algorithm = str(reader.config.get("quant_algo", "")).upper()
    if algorithm in _MODELOPT:
        return _MODELOPT[algorithm]
    groups = reader.config.get("config_groups")
    if groups is not None:
        return _compressed(reader)
    reader.refuse("quant_algo", algorithm, f"this is none of {', '.join(_MODELOPT)}", _FIX)
    return None


def _compressed(reader: Reader) -> Format | None:
    """The one format of all groups of compressed-tensors; several ones cannot be told apart by name."""
    groups = reader.part("config_groups")
    found = {form for name in groups.config if (form := _group(groups.part(name).part("weights"))) is not None}
    if len(found) == 1:
        return found.pop()
    if not groups.problems:
        reason = "one number format of weights is needed here"
        reader.refuse("config_groups", f"{len(found)} formats", reason, _FIX)
    return None


def _group(weights: Reader) -> Format | None:
    if not weights.config:
        return None
    bits = weights.number(key("num_bits", high=16))
    strategy = str(weights.config.get("strategy", "tensor"))
    group = weights.optional(key("group_size", default=None, low=-1))
    if weights.config.get("type") == "float":
        return _float_group(weights, bits, strategy, group)
    symmetric = weights.flag(Switch("symmetric", True))
    if bits == 8 and strategy in ("channel", "tensor"):
        return formats.INT8_CHANNEL
    return formats.integers(bits, group=group or 0, zero_points=not symmetric, name=f"int{bits}")


def _float_group(weights: Reader, bits: int, strategy: str, group: int | None) -> Format | None:
    if bits == 4:
        return formats.NVFP4 if (group or 16) == 16 else formats.MXFP4
    if bits != 8:
        weights.refuse("num_bits", bits, "floating point weights have 4 or 8 bits here", _FIX)
        return None
    size = weights.config.get("block_structure")
    if strategy == "block" and isinstance(size, list) and len(size) == 2 and all(type(item) is int for item in size):
        return formats.fp8_block(*(max(1, item) for item in size))
    return formats.FP8_CHANNEL if strategy == "channel" else formats.FP8_TENSOR


_MODELOPT: Mapping[str, Format] = {"NVFP4": formats.NVFP4, "FP8": formats.FP8_TENSOR}
_FORMATS: Mapping[str, Callable[[Reader], Format | None]] = {
    "fp8": _fp8,
    "mxfp4": lambda _reader: formats.MXFP4,
    "awq": _grouped("awq", reordered=False),
    "gptq": _grouped("gptq", reordered=True),
    "compressed-tensors": _compressed,
    "modelopt": _modelopt,
    "bitsandbytes": _bits_and_bytes,
    "fbgemm_fp8": lambda _reader: formats.FP8_CHANNEL,
}
