"""Every architecture against the models of the transformers library, built without memory on the meta device."""

import random

import pytest

from tandem.blueprint.config import from_config
from tandem.blueprint.families import FAMILIES
from tandem.blueprint.parts import Attention, Experts

torch = pytest.importorskip("torch", reason="needs the extra `serve`")
transformers = pytest.importorskip("transformers", reason="needs the extra `serve`")

MISSING = object()
YES_NO = (True, False, MISSING)
DRAWS = 4
BASE = {
    "vocab_size": (320, 515),
    "num_hidden_layers": (1, 2, 5, 7),
    "intermediate_size": (48, 96, 131),
    "max_position_embeddings": (64, 256),
    "tie_word_embeddings": YES_NO,
}
BIAS = {"attention_bias": YES_NO}
HEAD = {"head_dim": (8, 24, MISSING)}
WINDOW = {"sliding_window": (16, None, MISSING)}
SWITCHED = {"use_sliding_window": YES_NO, "sliding_window": (16,), "max_window_layers": (1, 3)}
STEPS = {"decoder_sparse_step": (1, 2, MISSING), "mlp_only_layers": ([0], [], MISSING)}
EXPERTS = {"num_experts_per_tok": (1, 2), "moe_intermediate_size": (24, 40)}
LATENT = {
    "q_lora_rank": (None, 12),
    "kv_lora_rank": (8, 16),
    "qk_nope_head_dim": (8, 12),
    "qk_rope_head_dim": (4, 8),
    "v_head_dim": (8, 12),
    "n_routed_experts": (4, 8),
    "n_shared_experts": (1, 2),
    "first_k_dense_replace": (0, 1, 9),
    "num_key_value_heads": (4,),
    "num_attention_heads": (4,),
    "n_group": (1,),
    "topk_group": (1,),
    "attention_bias": YES_NO,
    **EXPERTS,
}
MORE = {
    "llama": {**HEAD, **BIAS, "mlp_bias": YES_NO},
    "mistral": {**HEAD, **WINDOW},
    "llama4_text": {
        **HEAD,
        **BIAS,
        "num_local_experts": (2, 4),
        "num_experts_per_tok": (1,),
        "intermediate_size_mlp": (40, 72),
        "interleave_moe_layer_step": (1, 2, MISSING),
        "no_rope_layer_interval": (2, 4, MISSING),
        "attention_chunk_size": (16, None, MISSING),
    },
    "qwen2": SWITCHED,
    "qwen3": {**HEAD, **BIAS, **SWITCHED},
    "mixtral": {"num_local_experts": (2, 4), "num_experts_per_tok": (1, 2), **WINDOW},
    "qwen2_moe": {
        **SWITCHED,
        **STEPS,
        **EXPERTS,
        "num_experts": (4, 6),
        "shared_expert_intermediate_size": (24, 56),
        "qkv_bias": YES_NO,
    },
    "qwen3_moe": {**HEAD, **BIAS, **SWITCHED, **STEPS, **EXPERTS, "num_experts": (4, 6)},
    "gemma": {**HEAD, **BIAS},
    "gemma2": {**HEAD, **BIAS, "sliding_window": (16,)},
    "gemma3_text": {**HEAD, **BIAS, "sliding_window": (16,), "sliding_window_pattern": (2, 3, MISSING)},
    "phi": {"qk_layernorm": YES_NO},
    "phi3": {**WINDOW, "pad_token_id": (0,)},
    "gpt_oss": {**HEAD, **BIAS, "num_local_experts": (2, 4), "num_experts_per_tok": (1, 2), "sliding_window": (16,)},
    "deepseek_v2": {**LATENT, "mlp_bias": YES_NO},
    "deepseek_v3": LATENT,
    "glm4_moe": {
        **HEAD,
        **BIAS,
        **EXPERTS,
        "use_qk_norm": YES_NO,
        "n_routed_experts": (4,),
        "n_shared_experts": (1, 2),
        "first_k_dense_replace": (0, 1, 9),
        "n_group": (1,),
        "topk_group": (1,),
    },
    "gpt2": {"n_inner": (None, 96, MISSING), "n_positions": (64,), "max_position_embeddings": (MISSING,)},
    "gpt_neox": BIAS,
    "olmo2": BIAS,
    "olmo3": {**BIAS, "sliding_window": (16,)},
    "olmoe": {**BIAS, "num_experts": (2, 4), "num_experts_per_tok": (1, 2)},
    "seed_oss": {**HEAD, **BIAS, "attention_out_bias": YES_NO, "mlp_bias": YES_NO},
    "falcon": {
        "num_kv_heads": (2, MISSING),
        "new_decoder_architecture": YES_NO,
        "multi_query": YES_NO,
        "parallel_attn": YES_NO,
        "bias": YES_NO,
        "ffn_hidden_size": (96, MISSING),
        "num_ln_in_parallel_attn": (1, 2, MISSING),
    },
    "starcoder2": {**WINDOW, "use_bias": YES_NO},
    "cohere": {**BIAS, "use_qk_norm": YES_NO},
    "cohere2": {**BIAS, "sliding_window": (16,)},
    "granite": {**BIAS, "mlp_bias": YES_NO},
    "granitemoe": {**BIAS, "num_local_experts": (2, 4), "num_experts_per_tok": (1, 2)},
    "nemotron_h": {
        "hybrid_override_pattern": ("M*-E", "MEM*E", "*-", "ME"),
        "num_hidden_layers": (MISSING,),
        "mamba_num_heads": (4, 8),
        "mamba_head_dim": (8,),
        "ssm_state_size": (8, 16),
        "n_groups": (1, 2),
        "conv_kernel": (2, 4),
        "use_conv_bias": YES_NO,
        "use_bias": YES_NO,
        "mlp_bias": YES_NO,
        "head_dim": (8, 24),
        "n_routed_experts": (4,),
        "num_experts_per_tok": (2,),
        "moe_intermediate_size": (24,),
        "moe_shared_expert_intermediate_size": (40,),
        "moe_latent_size": (None, 12, MISSING),
    },
    "jamba": {
        "num_experts": (1, 2, 4),
        "num_experts_per_tok": (1,),
        "attn_layer_period": (2, 3),
        "attn_layer_offset": (0, 1),
        "expert_layer_period": (2,),
        "expert_layer_offset": (0, 1),
        "mamba_d_state": (4, 8),
        "mamba_expand": (1, 2),
        "mamba_dt_rank": (5, "auto", MISSING),
        "mamba_conv_bias": YES_NO,
        "mamba_proj_bias": YES_NO,
    },
}
# Models that the library reads with another family's classes.
ALIASES = {"kimi_k2": "deepseek_v3", "qwen2_vl_text": "qwen2", "qwen2_5_vl_text": "qwen2"}
# Models that it has beside an image encoder only.
BESIDE_IMAGES = {"qwen3_vl_text", "qwen3_vl_moe_text"}
KNOWN = [name for name in FAMILIES if name not in ALIASES and name not in BESIDE_IMAGES]
RENAMED = {
    "gpt2": {"hidden_size": "n_embd", "num_attention_heads": "n_head", "num_hidden_layers": "n_layer"},
}


def drawn(family, seed):
    """A small configuration of a family; which keys are there is drawn too."""
    source = random.Random(f"{family}/{seed}")
    heads = source.choice((2, 4))
    fixed = {
        "hidden_size": heads * source.choice((8, 16)),
        "num_attention_heads": heads,
        "num_key_value_heads": source.choice((1, 2, heads)),
    }
    options = {**BASE, **MORE[family]}
    values = {**fixed, **{key: source.choice(choices) for key, choices in options.items()}}
    if "num_attention_heads" in MORE[family]:
        values["hidden_size"] = 64
    names = RENAMED.get(family, {})
    return {names.get(key, key): value for key, value in values.items() if value is not MISSING}


def built(family, values):
    config = transformers.AutoConfig.for_model(family, **values)
    with torch.device("meta"):
        return transformers.AutoModelForCausalLM.from_config(config)


@pytest.mark.parametrize("family", KNOWN)
def test_s3_08_counts_equal_the_models_of_transformers(family):
    for seed in range(DRAWS):
        values = drawn(family, seed)
        model = built(family, dict(values))
        buffers = [size for name, size in model.named_buffers() if name.endswith("e_score_correction_bias")]

        blueprint = from_config({"model_type": family, **values})

        assert blueprint.trainable_params == sum(size.numel() for size in model.parameters()), values
        assert blueprint.buffers == sum(size.numel() for size in buffers), values


@pytest.mark.parametrize("family", [name for name in KNOWN if name not in ("nemotron_h", "jamba")])
def test_layers_look_back_as_far_as_in_transformers(family):
    for seed in range(DRAWS):
        values = drawn(family, seed)
        theirs = transformers.AutoConfig.for_model(family, **values)
        kinds = getattr(theirs, "layer_types", None)
        window = getattr(theirs, "sliding_window", getattr(theirs, "attention_chunk_size", None))
        ours = [
            run.layer.mixer
            for run in from_config({"model_type": family, **values}).structure.runs
            for _ in range(run.count)
        ]
        expected = [window] * len(ours) if kinds is None else [None if "full" in kind else window for kind in kinds]

        assert [mixer.window if isinstance(mixer, Attention) else None for mixer in ours] == expected, values


def test_every_architecture_is_drawn():
    assert set(MORE) == set(KNOWN)
    assert all(FAMILIES[name] is FAMILIES[other] for name, other in ALIASES.items())


def test_a_draw_has_experts_where_transformers_has_them():
    structure = from_config({"model_type": "jamba", **drawn("jamba", 1) | {"num_experts": 4}}).structure

    assert isinstance(structure.experts(), Experts)


def test_gemma_3_with_images_counts_as_in_transformers():
    text = {"hidden_size": 32, "num_hidden_layers": 3, "intermediate_size": 48, "head_dim": 8, "vocab_size": 300}
    vision = {"hidden_size": 24, "num_hidden_layers": 2, "intermediate_size": 40, "image_size": 28, "patch_size": 7}
    vision |= {"num_attention_heads": 2, "vision_use_head": False}
    config = transformers.Gemma3Config(text_config=text, vision_config=dict(vision), mm_tokens_per_image=4)
    with torch.device("meta"):
        model = transformers.Gemma3ForConditionalGeneration(config)

    blueprint = from_config({"model_type": "gemma3", "text_config": text, "vision_config": vision})

    assert blueprint.trainable_params == sum(size.numel() for size in model.parameters())


SMALL = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 2}
CLIP = {"model_type": "clip_vision_model", **SMALL, "image_size": 28, "patch_size": 7}
QWEN = {"depth": 2, "num_heads": 2, "patch_size": 7, "temporal_patch_size": 3, "spatial_merge_size": 3}
ENCODERS = {
    "llava": (CLIP, {}),
    "llava bias": (CLIP, {"multimodal_projector_bias": False, "vision_feature_layer": [0, 1]}),
    "llava_next": (CLIP, {}),
    "mistral3": ({"model_type": "pixtral", **SMALL, "image_size": 28, "patch_size": 7}, {"spatial_merge_size": 3}),
    "qwen2_vl": ({**QWEN, "embed_dim": 24, "mlp_ratio": 3, "hidden_size": 32}, {}),
    "qwen2_5_vl": ({**QWEN, "hidden_size": 24, "intermediate_size": 40, "out_hidden_size": 32}, {}),
}


@pytest.mark.parametrize("name", ENCODERS)
def test_image_encoders_count_as_in_transformers(name):
    kind = name.split()[0]
    vision, more = ENCODERS[name]
    text_kind, own = WITH_IMAGES[kind]
    text = {"model_type": text_kind, **TEXT, **own}
    if "qwen2" in kind:
        del text["head_dim"]
    theirs = transformers.AutoConfig.for_model(kind, text_config=dict(text), vision_config=dict(vision), **more)
    with torch.device("meta"):
        model = transformers.AutoModelForImageTextToText.from_config(theirs)

    document = {"model_type": kind, "text_config": text, "vision_config": vision, **more}
    blueprint = from_config({**document, "tie_word_embeddings": theirs.tie_word_embeddings})

    assert blueprint.uncounted == ()
    assert blueprint.trainable_params == sum(size.numel() for size in model.parameters())


TEXT = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 48,
    "vocab_size": 300,
}
SPARSE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
WITH_IMAGES = {
    "mistral3": ("mistral", {}),
    "llava": ("llama", {}),
    "llava_next": ("llama", {}),
    "aya_vision": ("cohere2", {}),
    "llama4": ("llama4_text", {"intermediate_size_mlp": 56, "num_local_experts": 2, "interleave_moe_layer_step": 2}),
    "qwen2_vl": ("qwen2_vl_text", {}),
    "qwen2_5_vl": ("qwen2_5_vl_text", {}),
    "qwen3_vl": ("qwen3_vl_text", {}),
    "qwen3_vl_moe": ("qwen3_vl_moe_text", SPARSE),
}


@pytest.mark.parametrize(
    ("kind", "tied"), [*((kind, False) for kind in WITH_IMAGES), ("llama4", True), ("mistral3", True)]
)
def test_language_models_beside_images_count_as_in_transformers(kind, tied):
    text_kind, more = WITH_IMAGES[kind]
    text = {"model_type": text_kind, **TEXT, **more}
    if "qwen2" in kind:
        del text["head_dim"]
    if kind == "llama4":
        text["tie_word_embeddings"] = tied  # its language model has a head of its own
    vision = {"vision_config": {"model_type": "siglip_vision_model", "num_attention_heads": 16}}
    images = vision if kind == "aya_vision" else {}
    theirs = transformers.AutoConfig.for_model(kind, text_config=dict(text), tie_word_embeddings=tied, **images)
    with torch.device("meta"):
        model = transformers.AutoModelForImageTextToText.from_config(theirs)
    parts = {name: size.numel() for name, size in model.named_parameters()}
    language = {name for name in parts if "language_model" in name or name.startswith("lm_head")}

    blueprint = from_config({"model_type": kind, "text_config": text, "vision_config": {}, "tie_word_embeddings": tied})

    assert blueprint.trainable_params == sum(parts[name] for name in language)
    assert blueprint.uncounted == ("vision",)
    assert blueprint.components[0] == "vision"
