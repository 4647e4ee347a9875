"""Architectures as data: each row says how a family differs from the form that most share.

Defaults are those of the transformers library where its configurations may leave a key out; a dimension that they
always write has none here. Tests compare every row with the models of that library.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from tandem.blueprint import patterns
from tandem.blueprint.family import HEADS, HIDDEN, Family, LatentForm, MoeForm, even_head_dim
from tandem.blueprint.hybrid import jamba_layers, nemotron_layers
from tandem.blueprint.parts import QkNorm
from tandem.blueprint.reader import MAX_LAYERS, Number, Reader, Switch, key

_USUAL = Family(
    hidden=HIDDEN,
    layers=key("num_hidden_layers", high=MAX_LAYERS),
    heads=HEADS,
    kv_heads=key("num_key_value_heads", default=HEADS),
    head_dim=key("head_dim", default=even_head_dim),
    inner=key("intermediate_size"),
    vocab=key("vocab_size"),
    length=key("max_position_embeddings", default=None),
    tied=Switch("tie_word_embeddings"),
    qkv_bias=Switch("attention_bias"),
    out_bias=Switch("attention_bias"),
    nextn=key("num_nextn_predict_layers", "num_mtp_layers", default=0, low=0, high=64),
)
LLAMA = replace(_USUAL, mlp_bias=Switch("mlp_bias"))
_PLAIN = replace(_USUAL, qkv_bias=False, out_bias=False)
_GEMMA = replace(_USUAL, head_dim=key("head_dim", default=256), tied=Switch("tie_word_embeddings", True))
_LAYER_NORM = replace(_USUAL, norms=4, final_norms=2, gated=False)
_ROUTED = key("num_experts_per_tok")


def _falcon_kv_heads(reader: Reader) -> int:
    heads = key("num_attention_heads", "n_head")
    if reader.flag(Switch("new_decoder_architecture")):
        return reader.number(key("num_kv_heads", "n_head_kv", default=heads))
    return 1 if reader.flag(Switch("multi_query", True)) else reader.number(heads)


def _falcon_norms(reader: Reader) -> int:
    if not reader.flag(Switch("parallel_attn", True)):
        return 4
    usual = 2 if reader.flag(Switch("new_decoder_architecture")) else 1
    return 4 if reader.number(key("num_ln_in_parallel_attn", default=usual)) == 2 else 2


def _four_times_hidden(reader: Reader) -> int:
    return 4 * reader.number(key("hidden_size", "n_embd", "n_embed"))


def _shared_experts(default: int) -> Number:
    def width(reader: Reader) -> int:
        count = reader.number(key("n_shared_experts", default=default, low=0))
        return count * reader.number(key("moe_intermediate_size"))

    return width


def _phi_norm(reader: Reader) -> QkNorm:
    return "head" if reader.flag(Switch("qk_layernorm")) else "none"


def _glm_norm(reader: Reader) -> QkNorm:
    return "head" if reader.flag(Switch("use_qk_norm")) else "none"


def _cohere_norm(reader: Reader) -> QkNorm:
    return "all" if reader.flag(Switch("use_qk_norm")) else "none"


_OLMO2 = replace(_USUAL, qk_norm="all")
_QWEN2 = replace(_PLAIN, qkv_bias=True, windows=patterns.upper_layers)
_QWEN3 = replace(_USUAL, head_dim=key("head_dim", default=128), qk_norm="head", windows=patterns.upper_layers)
_QWEN3_VL = replace(_QWEN3, windows=patterns.no_window)
_GEMMA2 = replace(_GEMMA, norms=4, windows=patterns.all_but_each(2, 4096))
_GEMMA3 = replace(
    _GEMMA2,
    qk_norm="head",
    windows=patterns.all_but_each(6, 4096),
    vocab=key("vocab_size", default=262_208),
    heads=key("num_attention_heads", default=8),
    kv_heads=key("num_key_value_heads", default=4),
    length=key("max_position_embeddings", default=131_072),
)
_COHERE = replace(_USUAL, tied=Switch("tie_word_embeddings", True), norms=1)
_DEEPSEEK = replace(
    _USUAL,
    latent=LatentForm(
        q_rank=1536,
        kv_rank=key("kv_lora_rank"),
        nope_dim=key("qk_nope_head_dim", default=128),
        rope_dim=key("qk_rope_head_dim", default=64),
        v_dim=key("v_head_dim", default=128),
        bias=Switch("attention_bias"),
    ),
    head_dim=1,
    moe=MoeForm(
        count=key("n_routed_experts", "num_local_experts"),
        per_token=_ROUTED,
        inner=key("moe_intermediate_size"),
        sparse=patterns.after_first(3),
        correction=True,
        shared_inner=_shared_experts(1),
    ),
)
_QWEN_MOE = MoeForm(
    count=key("num_experts", "num_local_experts"),
    per_token=_ROUTED,
    inner=key("moe_intermediate_size"),
    sparse=patterns.each_step,
)

FAMILIES: Mapping[str, Family] = {
    "llama": LLAMA,
    "mistral": replace(_PLAIN, windows=patterns.same_window(4096), kv_heads=key("num_key_value_heads", default=8)),
    "llama4_text": replace(
        _USUAL,
        head_dim=key("head_dim", default=128),
        inner=key("intermediate_size_mlp", default=16384),
        windows=patterns.chunked_layers,
        moe=MoeForm(
            count=key("num_local_experts", default=16),
            per_token=key("num_experts_per_tok", default=1),
            inner=key("intermediate_size"),
            sparse=patterns.interleaved,
            shared_inner=key("intermediate_size"),
        ),
    ),
    "qwen2": _QWEN2,
    "qwen2_vl_text": _QWEN2,
    "qwen2_5_vl_text": _QWEN2,
    "qwen3": _QWEN3,
    "qwen3_vl_text": _QWEN3_VL,
    "mixtral": replace(
        _PLAIN,
        windows=patterns.same_window(None),
        moe=MoeForm(count=key("num_local_experts", "num_experts"), per_token=_ROUTED, inner=key("intermediate_size")),
    ),
    "qwen2_moe": replace(
        _PLAIN,
        qkv_bias=Switch("qkv_bias", True),
        windows=patterns.odd_lower_layers,
        moe=replace(_QWEN_MOE, shared_inner=key("shared_expert_intermediate_size"), shared_gate=True),
    ),
    "qwen3_moe": replace(_QWEN3, head_dim=_USUAL.head_dim, windows=patterns.switched_window, moe=_QWEN_MOE),
    "qwen3_vl_moe_text": replace(_QWEN3_VL, head_dim=_USUAL.head_dim, moe=_QWEN_MOE),
    "gemma": _GEMMA,
    "gemma2": _GEMMA2,
    "gemma3_text": _GEMMA3,
    "phi": replace(
        _LAYER_NORM,
        norms=2,
        qkv_bias=True,
        out_bias=True,
        mlp_bias=True,
        head_bias=True,
        qk_norm=_phi_norm,
        qk_norm_bias=True,
    ),
    "phi3": replace(_PLAIN, windows=patterns.same_window(None)),
    "gpt_oss": replace(
        _USUAL,
        head_dim=key("head_dim", default=64),
        qkv_bias=Switch("attention_bias", True),
        out_bias=Switch("attention_bias", True),
        sinks=True,
        windows=patterns.all_but_each(2, 128),
        moe=MoeForm(
            count=key("num_local_experts", "num_experts"),
            per_token=key("num_experts_per_tok", "experts_per_token"),
            inner=key("intermediate_size"),
            bias=True,
            router_bias=True,
        ),
    ),
    "deepseek_v2": replace(
        _DEEPSEEK,
        mlp_bias=Switch("mlp_bias"),
        moe=replace(
            _DEEPSEEK.moe,  # type: ignore[type-var]
            sparse=patterns.after_first(0),
            correction=False,
            shared_inner=_shared_experts(2),
        ),
    ),
    "deepseek_v3": _DEEPSEEK,
    "kimi_k2": _DEEPSEEK,
    "glm4_moe": replace(
        _USUAL,
        out_bias=False,
        qk_norm=_glm_norm,
        moe=replace(_DEEPSEEK.moe, sparse=patterns.after_first(1)),  # type: ignore[type-var]
    ),
    "gpt2": replace(
        _LAYER_NORM,
        hidden=key("n_embd", "hidden_size"),
        layers=key("n_layer", "num_hidden_layers", high=MAX_LAYERS),
        heads=key("n_head", "num_attention_heads"),
        kv_heads=key("n_head", "num_attention_heads"),
        head_dim=lambda reader: max(
            1, reader.number(key("n_embd", "hidden_size")) // reader.number(key("n_head", "num_attention_heads"))
        ),
        inner=key("n_inner", default=_four_times_hidden),
        length=key("n_positions", "max_position_embeddings", default=1024),
        tied=Switch("tie_word_embeddings", True),
        learned_positions=True,
        qkv_bias=True,
        out_bias=True,
        mlp_bias=True,
    ),
    "gpt_neox": replace(
        _LAYER_NORM,
        kv_heads=HEADS,
        head_dim=even_head_dim,
        qkv_bias=Switch("attention_bias", True),
        out_bias=Switch("attention_bias", True),
        mlp_bias=True,
    ),
    "olmo2": _OLMO2,
    "olmo3": replace(_OLMO2, windows=patterns.all_but_each(4, 4096)),
    "olmoe": replace(
        _OLMO2,
        head_dim=even_head_dim,
        moe=MoeForm(count=key("num_experts", "num_local_experts"), per_token=_ROUTED, inner=key("intermediate_size")),
    ),
    "seed_oss": replace(
        LLAMA,
        head_dim=key("head_dim", default=128),
        qkv_bias=Switch("attention_bias", True),
        out_bias=Switch("attention_out_bias"),
    ),
    "falcon": replace(
        _LAYER_NORM,
        hidden=key("hidden_size", "n_embed"),
        layers=key("num_hidden_layers", "n_layer", high=MAX_LAYERS),
        heads=key("num_attention_heads", "n_head"),
        kv_heads=_falcon_kv_heads,
        head_dim=lambda reader: max(
            1, reader.number(key("hidden_size", "n_embed")) // reader.number(key("num_attention_heads", "n_head"))
        ),
        inner=key("ffn_hidden_size", default=_four_times_hidden),
        length=key("max_position_embeddings", default=2048),
        tied=Switch("tie_word_embeddings", True),
        qkv_bias=Switch("bias"),
        out_bias=Switch("bias"),
        mlp_bias=Switch("bias"),
        norms=_falcon_norms,
    ),
    "starcoder2": replace(
        _LAYER_NORM,
        windows=patterns.same_window(None),
        kv_heads=key("num_key_value_heads", default=2),
        tied=Switch("tie_word_embeddings", True),
        qkv_bias=Switch("use_bias", True),
        out_bias=Switch("use_bias", True),
        mlp_bias=Switch("use_bias", True),
    ),
    "cohere": replace(_COHERE, qk_norm=_cohere_norm),
    "cohere2": replace(_COHERE, windows=patterns.all_but_each(4, 4096)),
    "granite": LLAMA,
    "granitemoe": replace(
        _USUAL, moe=MoeForm(count=key("num_local_experts"), per_token=_ROUTED, inner=key("intermediate_size"))
    ),
    "nemotron_h": replace(
        _PLAIN,
        layers=key("num_hidden_layers", default=1, high=MAX_LAYERS),  # the list of layers says how many there are
        head_dim=key("head_dim", default=128),
        inner=key("intermediate_size", default=21504),
        tied=False,
        gated=False,
        mlp_bias=Switch("mlp_bias"),
        norms=1,
        layer_list=nemotron_layers,
        moe=MoeForm(
            count=key("n_routed_experts", "num_local_experts"),
            per_token=_ROUTED,
            inner=key("moe_intermediate_size"),
            gated=False,
            correction=True,
            shared_inner=key("moe_shared_expert_intermediate_size"),
            latent=key("moe_latent_size", default=None),
        ),
    ),
    "jamba": replace(
        _PLAIN,
        layer_list=jamba_layers,
        moe=MoeForm(count=key("num_experts", "num_local_experts"), per_token=_ROUTED, inner=key("intermediate_size")),
    ),
}
