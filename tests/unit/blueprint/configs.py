"""Configurations that tests share: published models, with the counts that others publish for them."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Golden:
    """A model: its type, dimensions as (hidden, layers, heads, KV heads, head size, inner, vocabulary), counts.

    `total` is the Hugging Face hub's number of values, or the transformers library's; `kv` bytes per token in bfloat16.
    """

    name: str
    model_type: str
    dims: tuple[int, ...]
    total: int
    kv: int
    active: int | None = None
    more: dict[str, Any] = field(default_factory=dict)

    def config(self) -> dict[str, Any]:
        return config(self.model_type, self.dims, **self.more)


NAMES = (
    *("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim"),
    *("intermediate_size", "vocab_size"),
)


def config(model_type: str, dims: tuple[int, ...], **more: Any) -> dict[str, Any]:
    length = {"max_position_embeddings": 131072}
    return {"model_type": model_type, "dtype": "bfloat16", **length, **dict(zip(NAMES, dims, strict=True)), **more}


TIED = {"tie_word_embeddings": True}
DEEPSEEK_V3 = {
    "model_type": "deepseek_v3",
    "torch_dtype": "bfloat16",
    "hidden_size": 7168,
    "num_hidden_layers": 61,
    "num_nextn_predict_layers": 1,
    "first_k_dense_replace": 3,
    "num_attention_heads": 128,
    "num_key_value_heads": 128,
    "q_lora_rank": 1536,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "intermediate_size": 18432,
    "moe_intermediate_size": 2048,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "num_experts_per_tok": 8,
    "vocab_size": 129280,
    "max_position_embeddings": 163840,
    "quantization_config": {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]},
}
GPT_OSS_DIMS = (2880, 24, 64, 8, 64, 2880, 201088)
GPT_OSS = {
    "num_local_experts": 32,
    "num_experts_per_tok": 4,
    "sliding_window": 128,
    "quantization_config": {
        "quant_method": "mxfp4",
        "modules_to_not_convert": [
            *("model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "model.lm_head")
        ],
    },
}
NEMOTRON_NANO = {
    "model_type": "nemotron_h",
    "dtype": "bfloat16",
    "hidden_size": 2688,
    "vocab_size": 131072,
    "hybrid_override_pattern": "MEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEMEM*EMEMEMEME",
    "mamba_num_heads": 64,
    "mamba_head_dim": 64,
    "n_groups": 8,
    "ssm_state_size": 128,
    "conv_kernel": 4,
    "num_attention_heads": 32,
    "num_key_value_heads": 2,
    "head_dim": 128,
    "intermediate_size": 1856,
    "n_routed_experts": 128,
    "num_experts_per_tok": 6,
    "moe_intermediate_size": 1856,
    "moe_shared_expert_intermediate_size": 3712,
    "n_shared_experts": 1,
    "max_position_embeddings": 262144,
}
LLAMA4 = {
    "model_type": "llama4",
    "torch_dtype": "bfloat16",
    "text_config": {
        "model_type": "llama4_text",
        "hidden_size": 5120,
        "intermediate_size": 8192,
        "intermediate_size_mlp": 16384,
        "num_hidden_layers": 48,
        "num_attention_heads": 40,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "num_local_experts": 16,
        "num_experts_per_tok": 1,
        "interleave_moe_layer_step": 1,
        "attention_chunk_size": 8192,
        "vocab_size": 202048,
        "max_position_embeddings": 10485760,
    },
    "vision_config": {"hidden_size": 1408},
}
GOLDEN = (
    Golden("Llama-3.1-8B", "llama", (4096, 32, 32, 8, 128, 14336, 128256), 8030261248, 131072),
    Golden("Llama-3.1-70B", "llama", (8192, 80, 64, 8, 128, 28672, 128256), 70553706496, 327680),
    Golden("Llama-3.1-405B", "llama", (16384, 126, 128, 8, 128, 53248, 128256), 405853388800, 516096),
    Golden("Mistral-7B-v0.1", "mistral", (4096, 32, 32, 8, 128, 14336, 32000), 7241732096, 131072),
    Golden("Mistral-7B-v0.3", "mistral", (4096, 32, 32, 8, 128, 14336, 32768), 7248023552, 131072),
    Golden("Qwen2.5-1.5B", "qwen2", (1536, 28, 12, 2, 128, 8960, 151936), 1543714304, 28672, more=TIED),
    Golden("Qwen2.5-7B", "qwen2", (3584, 28, 28, 4, 128, 18944, 152064), 7615616512, 57344),
    Golden("Qwen2.5-72B", "qwen2", (8192, 80, 64, 8, 128, 29568, 152064), 72706203648, 327680),
    Golden("Qwen3-8B", "qwen3", (4096, 36, 32, 8, 128, 12288, 151936), 8190735360, 147456),
    Golden("Qwen3-32B", "qwen3", (5120, 64, 64, 8, 128, 25600, 151936), 32762123264, 262144),
    Golden("Phi-4", "phi3", (5120, 40, 40, 10, 128, 17920, 100352), 14659507200, 204800),
    Golden("Gemma-3-1B", "gemma3_text", (1152, 26, 4, 1, 256, 6912, 262144), 999885952, 26624),
    Golden(
        "Qwen3-30B-A3B",
        "qwen3_moe",
        (2048, 48, 32, 4, 128, 6144, 151936),
        30532122624,
        98304,
        3353032704,
        {"num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 768},
    ),
    Golden(
        "Mixtral-8x7B",
        "mixtral",
        (4096, 32, 32, 8, 128, 14336, 32000),
        46702792704,
        131072,
        12879925248,
        {"num_local_experts": 8, "num_experts_per_tok": 2},
    ),
    Golden("gpt-oss-20b", "gpt_oss", GPT_OSS_DIMS, 20914757184, 49152, 4187440704, GPT_OSS),
    Golden(
        "gpt-oss-120b",
        "gpt_oss",
        (2880, 36, 64, 8, 64, 2880, 201088),
        116829156672,
        73728,
        5711982912,
        {**GPT_OSS, "num_local_experts": 128},
    ),
)


def gemma3(hidden: int, layers: int, heads: int, kv_heads: int, inner: int, head_dim: int = 256) -> dict[str, Any]:
    """A Gemma 3 with its image encoder; the language model's part says only what differs from the defaults."""
    text = dict(
        zip(
            ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size"),
            (hidden, layers, heads, kv_heads, inner),
            strict=True,
        )
    )
    vision = {"hidden_size": 1152, "image_size": 896, "intermediate_size": 4304, "num_hidden_layers": 27}
    return {
        "model_type": "gemma3",
        "torch_dtype": "bfloat16",
        "text_config": {**text, "head_dim": head_dim, "sliding_window": 1024},
        "vision_config": {**vision, "num_attention_heads": 16, "patch_size": 14},
    }
