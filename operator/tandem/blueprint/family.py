"""The form of an architecture: where it writes its dimensions, and which parts its layers have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tandem.blueprint import patterns
from tandem.blueprint.parts import QkNorm
from tandem.blueprint.patterns import Sparse, Windows
from tandem.blueprint.reader import Flag, Key, Number, Reader, key
from tandem.blueprint.structure import Layer

HIDDEN = key("hidden_size")
HEADS = key("num_attention_heads")


def even_head_dim(reader: Reader) -> int:
    """The model's width shared out to its heads."""
    return max(1, reader.number(HIDDEN) // reader.number(HEADS))


@dataclass(frozen=True, slots=True, kw_only=True)
class MoeForm:
    """How a family writes its experts. `shared_inner` is the width of what all tokens share, 0 for nothing."""

    count: Key
    per_token: Number
    inner: Number
    sparse: Sparse = patterns.every_layer
    gated: bool = True
    bias: bool = False
    router_bias: bool = False
    correction: bool = False
    shared_inner: Number = 0
    shared_gate: bool = False
    latent: Key | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentForm:
    """Where a family writes the dimensions of latent attention; `q_rank` holds where it writes none."""

    q_rank: int
    kv_rank: Key
    nope_dim: Key
    rope_dim: Key
    v_dim: Key
    bias: Flag


# Layers of a family that mixes kinds of them.
LayerList = Callable[[Reader, "Family"], list[Layer]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One row: keys of dimensions, and the form of layers. `norms` and `final_norms` count vectors (biases too)."""

    hidden: Key
    layers: Key
    heads: Number
    kv_heads: Number
    head_dim: Number
    inner: Number
    vocab: Key
    length: Key
    tied: Flag
    head_bias: bool = False
    learned_positions: bool = False
    qkv_bias: Flag
    out_bias: Flag
    qk_norm: Callable[[Reader], QkNorm] | QkNorm = "none"
    qk_norm_bias: bool = False
    sinks: bool = False
    windows: Windows = patterns.no_window
    gated: bool = True
    mlp_bias: Flag = False
    norms: Number = 2
    final_norms: int = 1
    moe: MoeForm | None = None
    latent: LatentForm | None = None
    layer_list: LayerList | None = None
    nextn: Key
