"""Layers of families that mix attention with state space layers."""

from __future__ import annotations

from collections.abc import Mapping

from tandem.blueprint import patterns
from tandem.blueprint.family import Family
from tandem.blueprint.layers import feed_of, mixer_of
from tandem.blueprint.parts import Mamba, Mamba2
from tandem.blueprint.reader import MAX_LAYERS, Reader, Switch, key
from tandem.blueprint.structure import Layer

# Nemotron-H: the letters of `hybrid_override_pattern`, and the words of its list of layers, old and new.
_LETTERS: Mapping[str, str] = {"M": "mamba", "E": "moe", "*": "attention", "-": "mlp"}
_WORDS: Mapping[str, str] = {
    "linear_attention": "mamba",
    "full_attention": "attention",
    **{word: word for word in _LETTERS.values()},
}
_STATE_BYTES: Mapping[str, int] = {"float32": 4, "float16": 2, "bfloat16": 2}


def nemotron_layers(reader: Reader, family: Family) -> list[Layer]:
    """Nemotron-H: each layer is one norm with one part: state space, attention, experts or MLP."""
    kinds = _nemotron_kinds(reader)
    made: dict[str, Layer] = {}
    for kind in dict.fromkeys(kinds):
        mixer = _mamba2(reader) if kind == "mamba" else mixer_of(reader, family) if kind == "attention" else None
        feed = feed_of(reader, family, kind == "moe") if kind in ("mlp", "moe") else None
        made[kind] = Layer(mixer=mixer, feed=feed, norms=1)
    return [made[kind] for kind in kinds]


def jamba_layers(reader: Reader, family: Family) -> list[Layer]:
    """Jamba: each `attn_layer_period`-th layer has attention, each `expert_layer_period`-th has experts."""
    count = reader.number(family.layers)
    attention, state = mixer_of(reader, family), _mamba(reader)
    attends = patterns.period(reader, "attn_layer", count, every=8, offset=4)
    # The one expert of a model that has only one is an MLP.
    several = family.moe is not None and (reader.optional(family.moe.count) or 1) > 1
    sparse = [several and moe for moe in patterns.period(reader, "expert_layer", count, every=2, offset=1)]
    feeds = {moe: feed_of(reader, family, moe) for moe in dict.fromkeys(sparse)}
    return [
        Layer(mixer=attention if attend else state, feed=feeds[moe], norms=2)
        for attend, moe in zip(attends, sparse, strict=True)
    ]


def _nemotron_kinds(reader: Reader) -> list[str]:
    name = next((name for name in ("layers_block_type", "layer_types") if reader.config.get(name) is not None), None)
    if name is not None:
        given = reader.config[name]
        count = len(given) if isinstance(given, list) else 0
        words = reader.words(name, known=tuple(_WORDS), count=count)
        found = [_WORDS[word] for word in words or ()]
    else:
        name, pattern = "hybrid_override_pattern", reader.config.get("hybrid_override_pattern")
        if not isinstance(pattern, str) or not set(pattern) <= set(_LETTERS):
            reader.refuse(name, pattern, f"one letter of {' '.join(_LETTERS)} is needed for each layer")
            return []
        found = [_LETTERS[letter] for letter in pattern]
    if not 1 <= len(found) <= MAX_LAYERS:
        reader.refuse(name, f"{len(found)} layers", f"a model has from 1 to {MAX_LAYERS} layers")
        return []
    return found


def _mamba2(reader: Reader) -> Mamba2:
    return Mamba2(
        heads=reader.number(key("mamba_num_heads")),
        head_dim=reader.number(key("mamba_head_dim", default=64)),
        groups=reader.number(key("mamba_n_groups", "n_groups", default=8)),
        state=reader.number(key("ssm_state_size", default=128)),
        conv=reader.number(key("mamba_d_conv", "conv_kernel", default=4)),
        conv_bias=reader.flag(Switch("use_conv_bias", True)),
        bias=reader.flag(Switch("use_bias")),
        state_bytes=_STATE_BYTES.get(str(reader.config.get("mamba_ssm_cache_dtype", "float32"))),
    )


def _mamba(reader: Reader) -> Mamba:
    hidden = reader.number(key("hidden_size"))
    automatic = reader.config.get("mamba_dt_rank", "auto") == "auto"
    return Mamba(
        inner=hidden * reader.number(key("mamba_expand", default=2)),
        state=reader.number(key("mamba_d_state", default=16)),
        conv=reader.number(key("mamba_d_conv", default=4)),
        rank=-(-hidden // 16) if automatic else reader.number(key("mamba_dt_rank")),
        conv_bias=reader.flag(Switch("mamba_conv_bias", True)),
        bias=reader.flag(Switch("mamba_proj_bias")),
    )
