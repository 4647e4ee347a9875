"""The blueprint: exact numbers from config.json."""

import pytest

from tandem.api.problems import Refused
from tandem.blueprint.model import from_config


def config(family, dims, **more):
    names = (
        *("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim"),
        *("intermediate_size", "vocab_size"),
    )
    return {"model_type": family, "dtype": "bfloat16"} | dict(zip(names, dims, strict=True)) | more


# Parameter counts that the Hugging Face hub publishes for these checkpoints, and KV bytes per token in bfloat16.
KNOWN = [
    ("llama", (4096, 32, 32, 8, 128, 14336, 128256), {}, 8_030_261_248, 131_072),
    ("llama", (8192, 80, 64, 8, 128, 28672, 128256), {}, 70_553_706_496, 327_680),
    ("llama", (16384, 126, 128, 8, 128, 53248, 128256), {}, 405_853_388_800, 516_096),
    ("qwen2", (1536, 28, 12, 2, 128, 8960, 151936), {"tie_word_embeddings": True}, 1_543_714_304, 28_672),
    ("qwen2", (3584, 28, 28, 4, 128, 18944, 152064), {}, 7_615_616_512, 57_344),
    ("qwen2", (8192, 80, 64, 8, 128, 29568, 152064), {}, 72_706_203_648, 327_680),
    ("qwen3", (4096, 36, 32, 8, 128, 12288, 151936), {}, 8_190_735_360, 147_456),
    ("qwen3", (5120, 64, 64, 8, 128, 25600, 151936), {}, 32_762_123_264, 262_144),
    ("mistral", (4096, 32, 32, 8, 128, 14336, 32000), {}, 7_241_732_096, 131_072),
]


@pytest.mark.parametrize(("family", "dims", "more", "params", "kv"), KNOWN)
def test_known_models_have_their_published_size(family, dims, more, params, kv):
    blueprint = from_config(config(family, dims, **more))

    assert blueprint.total_params == params
    assert blueprint.weight_bytes == 2 * params
    assert blueprint.kv_bytes_per_token == kv


def test_what_a_configuration_does_not_say_is_none():
    blueprint = from_config({"model_type": "mixtral"})

    assert blueprint.total_params is None
    assert blueprint.weight_bytes is None
    assert blueprint.kv_bytes_per_token is None
    assert blueprint.max_seq_len is None


@pytest.mark.parametrize("more", [{"kv_lora_rank": 512}, {"layer_types": ["sliding_attention"]}])
def test_a_kv_cache_of_another_form_is_not_guessed(more):
    assert from_config(config("deepseek_v3", (4096, 32, 32, 8, 128, 14336, 32000), **more)).kv_bytes_per_token is None


def test_the_longest_sequence_and_the_old_name_of_dtype():
    blueprint = from_config({"model_type": "llama", "max_position_embeddings": 8192, "torch_dtype": "float32"})

    assert blueprint.max_seq_len == 8192


def test_the_digest_is_of_the_content_and_not_of_its_order():
    first = from_config({"model_type": "llama", "a": 1, "b": 2}).digest

    assert from_config({"b": 2, "a": 1, "model_type": "llama"}).digest == first
    assert from_config({"b": 3, "a": 1, "model_type": "llama"}).digest != first


@pytest.mark.parametrize(
    ("document", "problems"),
    [
        ({}, ["model_type"]),
        ({"model_type": 3}, ["model_type"]),
        ({"model_type": "llama", "hidden_size": 0}, ["hidden_size"]),
        ({"model_type": "llama", "hidden_size": "4096", "vocab_size": True}, ["hidden_size", "vocab_size"]),
        ({"model_type": "llama", "head_dim": -1, "num_hidden_layers": 1.5}, ["num_hidden_layers", "head_dim"]),
    ],
)
def test_a_configuration_that_cannot_be_is_refused_with_each_key(document, problems):
    with pytest.raises(Refused) as refused:
        from_config(document)

    assert [problem.path for problem in refused.value.problems] == problems


@pytest.mark.parametrize(
    ("config", "is_moe", "nextn"),
    [
        ({"model_type": "llama"}, False, None),
        ({"model_type": "mixtral", "num_local_experts": 8}, True, None),
        ({"model_type": "qwen3_moe", "num_experts": 128}, True, None),
        ({"model_type": "deepseek_v3", "n_routed_experts": 256, "num_nextn_predict_layers": 1}, True, 1),
        ({"model_type": "mamba", "num_nextn_predict_layers": 0}, None, 0),
        ({"model_type": "mamba", "num_experts": "8", "num_nextn_predict_layers": "x"}, None, None),
        ({"model_type": "qwen3", "num_experts": None}, False, None),
    ],
)
def test_experts_and_further_tokens_are_known_when_the_configuration_tells(config, is_moe, nextn):
    blueprint = from_config(config)

    assert (blueprint.is_moe, blueprint.nextn) == (is_moe, nextn)
