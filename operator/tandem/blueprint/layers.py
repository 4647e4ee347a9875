"""From the form of a family and a configuration to the parts of each layer."""

from __future__ import annotations

from itertools import groupby

from tandem.blueprint.family import Family, LatentForm, MoeForm
from tandem.blueprint.parts import Attention, Experts, Feed, Latent, Mixer, Mlp
from tandem.blueprint.reader import Reader, key
from tandem.blueprint.structure import Layer, Run


def layers_of(reader: Reader, family: Family) -> list[Layer]:
    """Every layer, in order; what is wrong with the configuration is kept by the reader."""
    if family.layer_list is not None:
        return family.layer_list(reader, family)
    count, norms = reader.number(family.layers), reader.number(family.norms)
    windows = family.windows(reader, count)
    sparse = family.moe.sparse(reader, count) if family.moe else [False] * count
    mixers = {window: mixer_of(reader, family, window) for window in dict.fromkeys(windows)}
    feeds = {moe: feed_of(reader, family, moe) for moe in dict.fromkeys(sparse)}
    kinds = {
        (window, moe): Layer(mixer=mixers[window], feed=feeds[moe], norms=norms)
        for window, moe in dict.fromkeys(zip(windows, sparse, strict=True))
    }
    return [kinds[kind] for kind in zip(windows, sparse, strict=True)]


def runs_of(layers: list[Layer]) -> tuple[Run, ...]:
    """Equal neighbours as one run."""
    return tuple(Run(len(list(equal)), layer) for layer, equal in groupby(layers))


def mixer_of(reader: Reader, family: Family, window: int | None = None) -> Mixer:
    """The attention of a layer that looks back `window` tokens."""
    if family.latent is not None:
        return _latent(reader, family, family.latent)
    norm = family.qk_norm
    return Attention(
        heads=reader.number(family.heads),
        kv_heads=reader.number(family.kv_heads),
        head_dim=reader.number(family.head_dim),
        qkv_bias=reader.flag(family.qkv_bias),
        out_bias=reader.flag(family.out_bias),
        qk_norm=norm if isinstance(norm, str) else norm(reader),
        qk_norm_bias=family.qk_norm_bias,
        sinks=family.sinks,
        window=window,
    )


def feed_of(reader: Reader, family: Family, sparse: bool) -> Feed:
    """What follows the attention of a layer: experts when it is `sparse`, else an MLP."""
    if sparse and family.moe is not None:
        return _experts(reader, family, family.moe)
    return Mlp(inner=reader.number(family.inner), gated=family.gated, bias=reader.flag(family.mlp_bias))


def _experts(reader: Reader, family: Family, form: MoeForm) -> Experts:
    """The mixture of experts of a layer."""
    count, per_token = reader.number(form.count), reader.number(form.per_token)
    if per_token > count:
        name = "num_experts_per_tok"
        reader.refuse(name, per_token, f"a token cannot use more experts than the {count} there are")
    shared = reader.number(form.shared_inner)
    bias = reader.flag(family.mlp_bias)
    return Experts(
        count=count,
        per_token=per_token,
        inner=reader.number(form.inner),
        gated=form.gated,
        bias=form.bias,
        router_bias=form.router_bias,
        correction=form.correction,
        shared=Mlp(inner=shared, gated=family.gated, bias=bias) if shared else None,
        shared_gate=form.shared_gate,
        latent=reader.optional(form.latent) if form.latent else None,
        latent_bias=bias,
    )


def _latent(reader: Reader, family: Family, form: LatentForm) -> Latent:
    # null switches the compression of queries off; a key that is missing does not.
    given = "q_lora_rank" in reader.config
    return Latent(
        heads=reader.number(family.heads),
        q_rank=reader.optional(key("q_lora_rank", default=None)) if given else form.q_rank,
        kv_rank=reader.number(form.kv_rank),
        nope_dim=reader.number(form.nope_dim),
        rope_dim=reader.number(form.rope_dim),
        v_dim=reader.number(form.v_dim),
        bias=reader.flag(form.bias),
    )
