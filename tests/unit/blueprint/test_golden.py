"""Published models: counts and bytes that others have counted, to the last digit."""

import pytest

from tandem.blueprint import counts
from tandem.blueprint.activation import activation_bytes_per_token
from tandem.blueprint.config import from_config
from tests.unit.blueprint.configs import DEEPSEEK_V3, GOLDEN, LLAMA4, NEMOTRON_NANO, config, gemma3


@pytest.mark.parametrize("model", GOLDEN, ids=lambda model: model.name)
def test_s3_08_counts_are_the_published_ones(model):
    blueprint = from_config(model.config())

    assert blueprint.total_params == blueprint.trainable_params == model.total
    assert blueprint.active_params == (model.active or model.total)
    assert blueprint.kv_bytes_per_token == model.kv


QWEN_VL = {"depth": 32, "patch_size": 14, "in_chans": 3, "spatial_merge_size": 2, "temporal_patch_size": 2}
CLIP = {"model_type": "clip_vision_model", "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24}
PIXTRAL = {"model_type": "pixtral", "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24}
WITH_IMAGES = {
    "Qwen2.5-VL-7B": (
        "qwen2_5_vl",
        (3584, 28, 28, 4, 128, 18944, 152064),
        {**QWEN_VL, "hidden_size": 1280, "intermediate_size": 3420, "out_hidden_size": 3584},
        8_292_166_656,
    ),
    "Qwen2-VL-7B": (
        "qwen2_vl",
        (3584, 28, 28, 4, 128, 18944, 152064),
        {**QWEN_VL, "embed_dim": 1280, "mlp_ratio": 4, "hidden_size": 3584},
        8_291_375_616,
    ),
    "LLaVA-1.5-7B": (
        "llava",
        (4096, 32, 32, 32, 128, 11008, 32064),
        {**CLIP, "image_size": 336, "patch_size": 14},
        7_063_427_072,
    ),
    "Mistral-Small-3.1-24B": (
        "mistral3",
        (5120, 40, 32, 8, 128, 32768, 131072),
        {**PIXTRAL, "image_size": 1540, "patch_size": 14},
        24_011_361_280,
    ),
}


@pytest.mark.parametrize("name", WITH_IMAGES)
def test_s3_08_counts_with_images_are_the_published_ones(name):
    kind, dims, vision, total = WITH_IMAGES[name]
    text = {key: value for key, value in config("", dims).items() if key != "model_type"}

    blueprint = from_config({"model_type": kind, "dtype": "bfloat16", "text_config": text, "vision_config": vision})

    assert (blueprint.total_params, blueprint.uncounted) == (total, ())


def test_deepseek_v3_to_the_last_value_of_its_checkpoint():
    blueprint = from_config(DEEPSEEK_V3)
    structure = blueprint.structure
    stored = (*structure.weights(), *structure.further())
    scales = sum(
        times * weight.copies * -(-weight.out // 128) * -(-weight.inp // 128)
        for times, weight in stored
        if weight.linear
    )

    assert blueprint.total_params == 671_026_419_200
    assert (blueprint.trainable_params, blueprint.buffers) == (671_026_404_352, 14_848)
    assert blueprint.active_params == 37_552_297_472
    assert blueprint.kv_bytes_per_token == 70_272
    # What the hub counts: with the layer that predicts a further token, and the scales of FP8 blocks.
    assert blueprint.total_params + counts.counts(structure).further + scales == 684_531_386_000
    assert (blueprint.is_moe, blueprint.nextn) == (True, 1)


@pytest.mark.parametrize(("name", "size"), [("gpt-oss-20b", 13_761_264_768), ("gpt-oss-120b", 65_248_815_744)], ids=str)
def test_gpt_oss_takes_the_bytes_of_its_model_card(name, size):
    model = next(model for model in GOLDEN if model.name == name)

    assert from_config(model.config()).weight_bytes == size


@pytest.mark.parametrize(
    ("dims", "total"),
    [
        ((2560, 34, 8, 4, 10240), 4_300_079_472),
        ((3840, 48, 16, 8, 15360), 12_187_325_040),
        ((5376, 62, 32, 16, 21504, 128), 27_432_406_640),
    ],
    ids=["4B", "12B", "27B"],
)
def test_gemma_3_with_its_image_encoder(dims, total):
    blueprint = from_config(gemma3(*dims))

    assert blueprint.total_params == total
    assert (blueprint.image_size, blueprint.patch_size, blueprint.num_channels) == (896, 14, 3)
    assert "vision" in blueprint.components


def test_windows_bound_the_cache_of_long_sequences():
    blueprint = from_config(gemma3(5376, 62, 32, 16, 21504, 128))

    assert counts.sequence_bytes(blueprint.structure, 131_072, 2) == 11_173_625_856
    assert blueprint.kv_cache_bytes == 11_173_625_856
    assert 131_072 * counts.kv_bytes_per_token(blueprint.structure, 2) == 66_571_993_088
    assert blueprint.dims.window == 1024


def test_a_hybrid_has_a_constant_part_and_attention_layers():
    structure = from_config(NEMOTRON_NANO).structure

    assert counts.sequence_bytes(structure, 0, 2) == 49_082_368
    assert counts.kv_bytes_per_token(structure, 2) == 6_144
    assert counts.sequence_bytes(structure, 1000, 2) == 49_082_368 + 6_144_000


@pytest.mark.parametrize(
    ("model_type", "dims", "per_token"),
    [
        ("llama", (4096, 32, 32, 8, 128, 14336, 128256), 119_304),
        ("qwen2", (1536, 28, 12, 2, 128, 8960, 151936), 66_568),
        ("qwen3", (5120, 64, 64, 8, 128, 25600, 151936), 195_080),
        ("mistral", (4096, 32, 32, 8, 128, 14336, 32000), 119_304),
    ],
)
def test_activation_is_what_was_measured_in_torch(model_type, dims, per_token):

    assert activation_bytes_per_token(from_config(config(model_type, dims)).structure, 2) == per_token


QWEN3_235B = config(
    "qwen3_moe",
    (4096, 94, 64, 4, 128, 12288, 151936),
    num_experts=128,
    num_experts_per_tok=8,
    moe_intermediate_size=1536,
)


@pytest.mark.parametrize(
    ("document", "billions", "active"),
    [
        (LLAMA4, 107.8, 17.2),  # Scout: 109 with its image encoder
        (
            {
                **LLAMA4,
                "text_config": {**LLAMA4["text_config"], "num_local_experts": 128, "interleave_moe_layer_step": 2},
            },
            400.7,
            17.2,
        ),
        (
            QWEN3_235B,
            235.1,
            22.2,
        ),
        (
            {
                "model_type": "mistral3",
                "text_config": {
                    **config("mistral", (5120, 40, 32, 8, 128, 32768, 131072)),
                    "sliding_window": None,
                },
            },
            23.6,
            23.6,
        ),
    ],
    ids=["Llama-4-Scout", "Llama-4-Maverick", "Qwen3-235B-A22B", "Mistral-Small-3.1"],
)
def test_billions_of_the_model_cards(document, billions, active):
    blueprint = from_config(document)

    assert round(blueprint.total_params / 1e9, 1) == billions
    assert round(blueprint.active_params / 1e9, 1) == active


def test_a_share_of_the_cache_is_what_an_engine_logged():
    """vLLM on four GPUs of 80 GB with Qwen3-235B-A22B in FP8: 178,880 tokens in 8.11 GiB of each."""
    model = from_config(QWEN3_235B)

    assert 178_880 * counts.sequence_bytes(model.structure, 1, 2, across=4) == pytest.approx(8.11 * 2**30, rel=0.015)
