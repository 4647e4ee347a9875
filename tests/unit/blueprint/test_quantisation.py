"""Bytes of weights per number format, to the byte, and what a quantised model leaves in its own format."""

import pytest

from tandem.api.problems import Refused
from tandem.blueprint.config import from_config
from tandem.blueprint.counts import weight_bytes
from tandem.blueprint.formats import AWQ, GGUF, GPTQ, MXFP4, NVFP4, fp8_block, plain
from tests.unit.blueprint.configs import config

DIMS = (256, 2, 4, 2, 64, 512, 1000)
MATRICES = 2 * (2 * 256 * 256 + 2 * 128 * 256 + 3 * 256 * 512)
REST = 2 * (2 * 1000 * 256 + 5 * 256)
# Of all matrices together: one of q, k, v, o, gate, up and down in each of two layers.
OUTPUTS = 2 * (256 + 128 + 128 + 256 + 512 + 512 + 256)
INPUTS = 2 * (256 + 256 + 256 + 256 + 256 + 256 + 512)


def compressed(**weights):
    return {"quant_method": "compressed-tensors", "config_groups": {"g": {"weights": weights}}}


def quantised(**settings):
    return from_config(config("llama", DIMS, quantization_config=settings))


@pytest.mark.parametrize(
    ("form", "size"),
    [
        (plain("bfloat16"), 2 * 256 * 512),
        (plain("float32"), 4 * 256 * 512),
        (fp8_block(), 256 * 512 + 4 * 2 * 4),
        (MXFP4, 256 * 512 // 2 + 256 * 512 // 32),
        (NVFP4, 256 * 512 // 2 + 256 * 512 // 16 + 4),
        (AWQ, 256 * 512 // 2 + 256 * 4 * 2 + 256 * 4 // 2),
        (GPTQ, 256 * 512 // 2 + 256 * 4 * 2 + 256 * 4 // 2 + 4 * 512),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_a_matrix_in_each_format(form, size):
    assert form.bytes_of(256, 512) == size


def test_a_block_that_is_not_full_counts_whole():
    assert fp8_block().bytes_of(129, 1) == 129 + 2 * 4


@pytest.mark.parametrize(
    ("name", "bits"),
    [
        ("q4_0", 4.5),
        ("q4_1", 5),
        ("q5_0", 5.5),
        ("q5_1", 6),
        ("q8_0", 8.5),
        ("f16", 16),
        ("q4_k", 4.5),
        ("q6_k", 6.5625),
    ],
)
def test_gguf_bits_per_weight(name, bits):
    assert GGUF[name].bytes_of(256, 1024) == 256 * 1024 * bits / 8


@pytest.mark.parametrize(
    ("settings", "matrices"),
    [
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, MATRICES + MATRICES // 128**2 * 4),
        ({"quant_method": "fp8"}, MATRICES + 14 * 4),
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, MATRICES // 2 + MATRICES // 128 * 5 // 2),
        ({"quant_method": "awq", "bits": 4, "group_size": 64}, MATRICES // 2 + MATRICES // 64 * 5 // 2),
        ({"quant_method": "gptq", "bits": 4, "group_size": 128}, MATRICES // 2 + MATRICES // 128 * 5 // 2 + 4 * INPUTS),
        ({"quant_method": "gptq", "bits": 8, "group_size": -1}, MATRICES + 3 * OUTPUTS + 4 * INPUTS),
        ({"quant_method": "fbgemm_fp8"}, MATRICES + 4 * OUTPUTS),
        ({"quant_method": "modelopt", "quant_algo": "FP8"}, MATRICES + 14 * 4),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, MATRICES + 4 * OUTPUTS),
        (compressed(num_bits=4, type="float", strategy="group", group_size=16), MATRICES // 2 + MATRICES // 16 + 56),
        (compressed(num_bits=4, type="float", strategy="group", group_size=32), MATRICES // 2 + MATRICES // 32),
        (compressed(num_bits=8, type="float", strategy="channel"), MATRICES + 4 * OUTPUTS),
        (compressed(num_bits=8, type="int", strategy="channel"), MATRICES + 4 * OUTPUTS),
        ({"quant_method": "mxfp4"}, MATRICES // 2 + MATRICES // 32),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, MATRICES // 2 + MATRICES // 16 + 14 * 4),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, MATRICES // 2 + MATRICES // 64 + 14 * 4),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {
                    "g": {"weights": {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 128}}
                },
            },
            MATRICES // 2 + MATRICES // 128 * 2,
        ),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {
                    "g": {
                        "weights": {"num_bits": 8, "type": "float", "strategy": "block", "block_structure": [128, 128]}
                    }
                },
            },
            MATRICES + MATRICES // 128**2 * 4,
        ),
    ],
    ids=lambda value: str(value)[:60],
)
def test_bytes_of_a_quantised_model(settings, matrices):
    assert quantised(**settings).weight_bytes == matrices + REST


@pytest.mark.parametrize(
    ("patterns", "kept"),
    [
        (["lm_head"], 0),
        (["model.layers.0.mlp.down_proj"], 256 * 512),
        (["model.layers.*.mlp.down_proj"], 2 * 256 * 512),
        (["re:.*down_proj"], 2 * 256 * 512),
        (["re:.*down_proj$"], 2 * 256 * 512),
        (["model.layers.1.mlp"], 3 * 256 * 512),
        (["mlp"], 2 * 3 * 256 * 512),
        (["down"], 0),
        (["re:(a+)+$"], 0),
        (["re:.*(down|absent)_proj"], 2 * 256 * 512),
        (["re:^model\\.layers\\.\\d+\\.mlp\\.[d]own_proj$"], 2 * 256 * 512),
        (["re:" + "(a|b)" * 60], 0),
        (["re:" + "(" * 400], 0),
    ],
    ids=str,
)
def test_modules_that_are_left_out_keep_the_models_format(patterns, kept):
    settings = {"quant_method": "fp8", "modules_to_not_convert": patterns}
    whole = quantised(quant_method="fp8").weight_bytes

    more = quantised(**settings).weight_bytes - whole

    assert more == kept - 4 * (kept // (256 * 512))


def test_groups_of_several_formats_need_the_index():
    groups = {
        name: {"weights": {"num_bits": bits, "type": "int", "strategy": "group", "group_size": 128}}
        for name, bits in (("a", 4), ("b", 2))
    }
    with pytest.raises(Refused) as refused:
        quantised(quant_method="compressed-tensors", config_groups=groups)

    (problem,) = refused.value.problems
    assert problem.path == "quantization_config.config_groups"
    assert "index" in problem.fix


def test_any_model_can_be_sized_in_any_plain_format():
    structure = from_config(config("llama", DIMS)).structure

    assert weight_bytes(structure, plain("float32")) == 2 * weight_bytes(structure, plain("bfloat16"))
