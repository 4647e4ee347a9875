"""A new model's dimensions from what it is for: a table, no chance in it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import NamedTuple

from tandem.api.problems import refuse
from tandem.api.resources import BlueprintDesign
from tandem.blueprint.config import from_config
from tandem.blueprint.model import Blueprint
from tandem.blueprint.reader import MAX_VALUE

VOCABULARY = 50_257
IMAGE_SIZE, CHANNELS, PATCH = 224, 3, 16
SAMPLE_RATE = 16_000
_BASE: Mapping[str, tuple[int, int]] = {"transformer": (4096, 32), "diffusion": (2048, 24)}
_MORE_LAYERS: Mapping[str, int] = {"video": 8, "audio": -4}
_LEAST_LAYERS = 12
_UNITS: Mapping[str, int] = {"": 1, "k": 2**10, "m": 2**20}


class DesignDims(NamedTuple):
    """Width, layers and heads; heads always share the width evenly."""

    hidden_size: int
    layers: int
    heads: int


def choose_dims(design: BlueprintDesign) -> DesignDims:
    """The dimensions of a design. Half as wide for the edge, a CPU or real time, 1.5 times for a data center."""
    hidden, layers = _BASE[design.family]
    if design.real_time or design.hardware in ("edge", "cpu"):
        hidden //= 2
    if design.hardware == "datacenter_gpu":
        hidden += hidden // 2
    layers += _MORE_LAYERS.get(design.modality, 0)
    if design.tiny:
        layers = max(_LEAST_LAYERS, layers * 6 // 10)
    return DesignDims(hidden, layers, max(8, hidden // 256))


def context_tokens(text: str, *, path: str = "spec.design.context") -> int:
    """`128k` is 131072 tokens, `1m` 1048576, plain digits what they say; raises `Refused` for all else."""
    match = re.fullmatch(r"([1-9][0-9]{0,8})([kKmM]?)", text)
    tokens = int(match[1]) * _UNITS[match[2].lower()] if match else 0
    if not 1 <= tokens <= MAX_VALUE:
        reason = f"a context length is a number from 1 to {MAX_VALUE}, with k or m behind it or not"
        raise refuse(path, text, reason, "Write 128k.")
    return tokens


def design_config(design: BlueprintDesign) -> dict[str, object]:
    """The config.json of the model that a design describes: a decoder of Llama's form; raises `Refused`."""
    if design.family != "transformer":
        fix = "Use family transformer."
        raise refuse("spec.design.family", design.family, "models of this family are not built yet", fix)
    hidden, layers, heads = choose_dims(design)
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "bfloat16",
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "intermediate_size": 4 * hidden,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": context_tokens(design.context),
        "tie_word_embeddings": False,
    }


def from_design(design: BlueprintDesign) -> Blueprint:
    """The blueprint of a design; raises `Refused`."""
    blueprint = from_config(design_config(design), place="spec.design: ")
    seen = design.modality in ("image", "video")
    return dataclasses.replace(
        blueprint,
        family=design.family,
        num_channels=CHANNELS if seen else None,
        image_size=IMAGE_SIZE if seen else None,
        patch_size=PATCH if seen else None,
        sample_rate=SAMPLE_RATE if design.modality == "audio" else None,
        seed=design.seed,
    )
