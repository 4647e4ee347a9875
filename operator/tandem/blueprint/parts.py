"""What a language model is built of, and the weights of each part: closed forms over its dimensions.

Every part lists its weights as matrices (a vector is a matrix of one column) with how tensor parallelism may cut them;
counts, bytes and shares of a GPU all follow from these lists. `Weight.name` is the module's name in a checkpoint of
the transformers library, because lists of modules that are not quantised use those names.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

Cut = Literal["none", "out", "in"]
Group = Literal["embedding", "attention", "mlp", "experts", "other"]
QkNorm = Literal["none", "head", "all"]


class Weight(NamedTuple):
    """`copies` matrices of `out` × `inp` values.

    `cut` is the dimension that tensor parallelism divides, in `units` pieces that stay whole (heads). `linear`
    weights may be quantised; a `buffer` is stored with the model but is no parameter of it.
    """

    name: str
    out: int
    inp: int
    group: Group
    copies: int = 1
    cut: Cut = "none"
    units: int = 1
    linear: bool = False
    buffer: bool = False

    @property
    def values(self) -> int:
        """How many numbers it holds."""
        return self.copies * self.out * self.inp


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """Attention with a KV cache per head. `window` is the number of tokens that a layer looks back, None for all."""

    kind: Literal["attention"] = "attention"
    heads: int
    kv_heads: int
    head_dim: int
    qkv_bias: bool = False
    out_bias: bool = False
    qk_norm: QkNorm = "none"
    qk_norm_bias: bool = False
    sinks: bool = False
    window: int | None = None

    def weights(self, hidden: int) -> Iterator[Weight]:
        """The projections, their biases, and norms of queries and keys."""
        for name, heads in (("q", self.heads), ("k", self.kv_heads), ("v", self.kv_heads)):
            out, module = heads * self.head_dim, f"self_attn.{name}_proj"
            yield Weight(module, out, hidden, "attention", cut="out", units=heads, linear=True)
            if self.qkv_bias:
                yield Weight(module, out, 1, "attention", cut="out", units=heads)
        yield Weight(
            "self_attn.o_proj",
            hidden,
            self.heads * self.head_dim,
            "attention",
            cut="in",
            units=self.heads,
            linear=True,
        )
        if self.out_bias:
            yield Weight("self_attn.o_proj", hidden, 1, "attention")
        if self.qk_norm == "head":
            yield Weight("self_attn.qk_norm", 2 * self.head_dim * (2 if self.qk_norm_bias else 1), 1, "attention")
        elif self.qk_norm == "all":
            for heads in (self.heads, self.kv_heads):
                yield Weight("self_attn.qk_norm", heads * self.head_dim, 1, "attention", cut="out", units=heads)
        if self.sinks:
            yield Weight("self_attn.sinks", self.heads, 1, "attention", cut="out", units=self.heads)


@dataclass(frozen=True, slots=True, kw_only=True)
class Latent:
    """Multi-head latent attention: the KV cache is one compressed vector per token, which no GPU can share."""

    kind: Literal["latent"] = "latent"
    heads: int
    q_rank: int | None
    kv_rank: int
    nope_dim: int
    rope_dim: int
    v_dim: int
    bias: bool = False

    def weights(self, hidden: int) -> Iterator[Weight]:
        """Down and up projections of queries and of the compressed vector, their norms, the output projection."""
        query = self.heads * (self.nope_dim + self.rope_dim)
        if self.q_rank is None:
            yield Weight("self_attn.q_proj", query, hidden, "attention", cut="out", units=self.heads, linear=True)
        else:
            yield from self._down("self_attn.q_a_proj", self.q_rank, hidden)
            yield Weight("self_attn.q_a_layernorm", self.q_rank, 1, "attention")
            yield Weight(
                "self_attn.q_b_proj", query, self.q_rank, "attention", cut="out", units=self.heads, linear=True
            )
        yield from self._down("self_attn.kv_a_proj_with_mqa", self.kv_rank + self.rope_dim, hidden)
        yield Weight("self_attn.kv_a_layernorm", self.kv_rank, 1, "attention")
        up = self.heads * (self.nope_dim + self.v_dim)
        yield Weight("self_attn.kv_b_proj", up, self.kv_rank, "attention", cut="out", units=self.heads, linear=True)
        yield Weight(
            "self_attn.o_proj", hidden, self.heads * self.v_dim, "attention", cut="in", units=self.heads, linear=True
        )
        if self.bias:
            yield Weight("self_attn.o_proj", hidden, 1, "attention")

    def _down(self, name: str, out: int, hidden: int) -> Iterator[Weight]:
        yield Weight(name, out, hidden, "attention", linear=True)
        if self.bias:
            yield Weight(name, out, 1, "attention")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mamba:
    """A state space layer of the first kind (Jamba): one state per channel."""

    kind: Literal["mamba"] = "mamba"
    inner: int
    state: int
    conv: int
    rank: int
    conv_bias: bool = True
    bias: bool = False
    state_bytes: int | None = None

    def weights(self, hidden: int) -> Iterator[Weight]:
        """Projections, convolution, state matrix and the norms of time step, B and C."""
        yield from _cut_out("mamba.in_proj", 2 * self.inner, hidden, self.inner, bias=self.bias)
        yield Weight("mamba.conv1d", self.inner, self.conv + self.conv_bias, "attention", cut="out", units=self.inner)
        low = self.rank + 2 * self.state
        yield Weight("mamba.x_proj", low, self.inner, "attention", cut="in", units=self.inner, linear=True)
        yield from _cut_out("mamba.dt_proj", self.inner, self.rank, self.inner, bias=True)
        yield Weight("mamba.A_log", self.inner, self.state, "attention", cut="out", units=self.inner)
        yield Weight("mamba.D", self.inner, 1, "attention", cut="out", units=self.inner)
        yield Weight("mamba.layernorm", low, 1, "attention")
        yield Weight("mamba.out_proj", hidden, self.inner, "attention", cut="in", units=self.inner, linear=True)
        if self.bias:
            yield Weight("mamba.out_proj", hidden, 1, "attention")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mamba2:
    """A state space layer of the second kind (Nemotron-H): one state per head; B and C per group of heads."""

    kind: Literal["mamba2"] = "mamba2"
    heads: int
    head_dim: int
    groups: int
    state: int
    conv: int
    conv_bias: bool = True
    bias: bool = False
    state_bytes: int | None = None

    def weights(self, hidden: int) -> Iterator[Weight]:
        """Projections, convolution, the three numbers per head, the gated norm."""
        inner, shared = self.heads * self.head_dim, 2 * self.groups * self.state
        for out, units in ((2 * inner + self.heads, self.heads), (shared, self.groups)):
            yield from _cut_out("mixer.in_proj", out, hidden, units, bias=self.bias)
        for out, units in ((inner, self.heads), (shared, self.groups)):
            yield Weight("mixer.conv1d", out, self.conv + self.conv_bias, "attention", cut="out", units=units)
        yield Weight("mixer.A_log", 3 * self.heads, 1, "attention", cut="out", units=self.heads)
        yield Weight("mixer.norm", inner, 1, "attention", cut="out", units=self.heads)
        yield Weight("mixer.out_proj", hidden, inner, "attention", cut="in", units=self.heads, linear=True)
        if self.bias:
            yield Weight("mixer.out_proj", hidden, 1, "attention")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mlp:
    """A feed-forward layer; `gated` ones have a third matrix."""

    kind: Literal["mlp"] = "mlp"
    inner: int
    gated: bool = True
    bias: bool = False

    def weights(self, hidden: int, module: str = "mlp") -> Iterator[Weight]:
        """Two or three matrices, with biases or without."""
        for name in ("gate_proj", "up_proj") if self.gated else ("up_proj",):
            yield from _cut_out(f"{module}.{name}", self.inner, hidden, self.inner, bias=self.bias, group="mlp")
        down = f"{module}.down_proj"
        yield Weight(down, hidden, self.inner, "mlp", cut="in", units=self.inner, linear=True)
        if self.bias:
            yield Weight(down, hidden, 1, "mlp")


@dataclass(frozen=True, slots=True, kw_only=True)
class Experts:
    """A mixture of experts, of which each token uses `per_token`, and a part that every token uses (`shared`).

    `router_bias` is a parameter, `correction` a stored buffer, one number per expert each. `latent` is the width that
    experts work in when it is not the model's.
    """

    kind: Literal["experts"] = "experts"
    count: int
    per_token: int
    inner: int
    gated: bool = True
    bias: bool = False
    router_bias: bool = False
    correction: bool = False
    shared: Mlp | None = None
    shared_gate: bool = False
    latent: int | None = None
    latent_bias: bool = False

    def weights(self, hidden: int) -> Iterator[Weight]:
        """Router, experts, and what all tokens share."""
        width, count = self.latent or hidden, self.count
        yield Weight("mlp.gate", count, hidden, "other")
        if self.router_bias:
            yield Weight("mlp.gate", count, 1, "other")
        if self.correction:
            yield Weight("mlp.gate", count, 1, "other", buffer=True)
        matrix = Weight("mlp.experts", self.inner, width, "experts", count, "out", self.inner, linear=True)
        for _ in range(2 if self.gated else 1):
            yield matrix
            if self.bias:
                yield matrix._replace(inp=1, linear=False)
        yield Weight("mlp.experts", width, self.inner, "experts", count, "in", self.inner, linear=True)
        if self.bias:
            yield Weight("mlp.experts", width, 1, "experts", count)
        if self.shared is not None:
            yield from self.shared.weights(hidden, "mlp.shared_experts")
        if self.shared_gate:
            yield Weight("mlp.shared_expert_gate", 1, hidden, "other")
        if self.latent is not None:
            yield Weight("mlp.fc1_latent_proj", self.latent, hidden, "other", linear=True)
            yield Weight("mlp.fc2_latent_proj", hidden, self.latent, "other", linear=True)
            if self.latent_bias:
                yield Weight("mlp.fc2_latent_proj", hidden + self.latent, 1, "other")


def _cut_out(name: str, out: int, inp: int, units: int, *, bias: bool, group: Group = "attention") -> Iterator[Weight]:
    yield Weight(name, out, inp, group, cut="out", units=units, linear=True)
    if bias:
        yield Weight(name, out, 1, group, cut="out", units=units)


Mixer = Attention | Latent | Mamba | Mamba2
Feed = Mlp | Experts
