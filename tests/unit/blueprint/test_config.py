"""Reading a config.json: what is there, what is missing, what cannot be."""

import dataclasses
import json
import os
import subprocess
import sys

import pytest

from tandem.api.problems import Refused
from tandem.blueprint.config import from_config
from tandem.blueprint.fits import Room, judge
from tandem.blueprint.index import Index
from tandem.blueprint.memory import Load
from tandem.blueprint.split import ONE
from tests.unit.blueprint.configs import DEEPSEEK_V3, GOLDEN, LLAMA4, config

LLAMA = config("llama", (64, 2, 4, 2, 16, 128, 256))


def refused(document, **more):
    with pytest.raises(Refused) as caught:
        from_config(document, **more)
    return caught.value.problems


def test_s3_01_one_value_has_every_dimension():
    blueprint = from_config(DEEPSEEK_V3)

    assert blueprint.family == "transformer"
    assert blueprint.seed == 42
    assert (blueprint.vocab_size, blueprint.max_seq_len) == (129280, 163840)
    assert blueprint.components == ("embedding", "latent", "mlp", "experts", "head")
    assert dataclasses.asdict(blueprint.dims) == {
        "hidden_size": 7168,
        "layers": 61,
        "heads": 128,
        "kv_heads": None,
        "head_dim": 192,
        "intermediate_size": 18432,
        "experts": 256,
        "experts_per_token": 8,
        "expert_intermediate_size": 2048,
        "q_lora_rank": 1536,
        "kv_lora_rank": 512,
        "window": None,
    }
    assert blueprint.kv_cache_bytes == 163840 * 70272
    assert blueprint.activation_bytes > 0


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(from_config(LLAMA))])
def test_s3_02_no_field_can_be_assigned(name):
    with pytest.raises((AttributeError, TypeError)):
        setattr(from_config(LLAMA), name, None)


def test_s3_02_frozen_to_the_last_element_and_hashable():
    blueprint = from_config(DEEPSEEK_V3)

    with pytest.raises((AttributeError, TypeError)):
        blueprint.dims.hidden_size = 1024
    with pytest.raises((AttributeError, TypeError)):
        blueprint.structure.runs[0].layer.mixer.heads = 1
    with pytest.raises(TypeError):
        blueprint.structure.runs[0] = None
    with pytest.raises((AttributeError, TypeError)):
        blueprint.quantisation.format.bits = 16
    assert len({blueprint, from_config(DEEPSEEK_V3)}) == 1


def test_s3_12_the_view_of_older_tools():
    blueprint = from_config(LLAMA)

    assert blueprint.summary() == {
        "params_billion": blueprint.total_params / 1e9,
        "activation_memory_gb": blueprint.activation_bytes / 1e9,
        "kv_cache_gb": blueprint.kv_cache_bytes / 1e9,
    }


def test_the_digest_is_of_the_content_and_not_of_its_order():
    first = from_config(LLAMA).digest

    assert from_config(dict(reversed(LLAMA.items()))).digest == first
    assert from_config({**LLAMA, "rope_theta": 1}).digest != first
    assert from_config(LLAMA, index=Index(100_000, ("a",), 1)).digest != first


def test_of_a_model_with_images_the_language_model_is_counted():
    blueprint = from_config(LLAMA4)
    load = Load(batch=1, length=16384, step=8192)
    verdict = judge(blueprint, load, ONE, Room(memory=2**40))
    mixers = [run.layer.mixer for run in blueprint.structure.runs]

    # 48 layers of 16 experts and a shared one, each 3 × 5120 × 8192, and what stands around them.
    assert blueprint.total_params == 48 * (17 * 3 * 5120 * 8192 + 62_914_560 + 5120 * 18) + 2 * 202048 * 5120 + 5120
    assert blueprint.uncounted == ("vision",)
    assert [mixer.window for mixer in mixers] == [8192, None] * 12
    assert verdict.notes == ("the weights of its other parts (vision) are not counted",)
    with_index = from_config(LLAMA4, index=Index(2 * blueprint.total_params + 10**9, ("a",), 1))
    assert judge(with_index, load, ONE, Room(memory=2**40)).notes == ()


@pytest.mark.parametrize(
    ("document", "path"),
    [
        ({**LLAMA4, "text_config": {**LLAMA4["text_config"], "model_type": "mllama"}}, "text_config.model_type"),
        ({**LLAMA4, "text_config": {**LLAMA4["text_config"], "model_type": 7}}, "text_config.model_type"),
        ({**LLAMA4, "text_config": {**LLAMA4["text_config"], "no_rope_layers": [1]}}, "text_config.no_rope_layers"),
        ({**LLAMA4, "text_config": {**LLAMA4["text_config"], "moe_layers": "all"}}, "text_config.moe_layers"),
        ({"model_type": "mistral3", "text_config": []}, "text_config"),
        ({"model_type": "mllama", "text_config": {"model_type": "llama"}}, "model_type"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_language_model_that_cannot_be_read_is_located(document, path):
    problem = refused(document)[0]

    assert problem.path == path
    assert problem.fix


def test_a_language_model_that_is_quantised_beside_an_image_encoder():
    ignored = ["language_model.model.layers.0.mlp.down_proj", "model.language_model.layers.1.mlp", "vision_tower"]
    settings = {"quant_method": "fp8", "modules_to_not_convert": ignored}
    text = {**LLAMA, "model_type": "mistral", "sliding_window": None}
    blueprint = from_config({"model_type": "mistral3", "text_config": text, "quantization_config": settings})

    assert [run.layer.plain for run in blueprint.structure.runs] == [
        ("mlp.down_proj",),
        ("mlp.down_proj", "mlp.gate_proj", "mlp.up_proj"),
    ]


def test_the_old_name_of_dtype_and_of_none():
    old = {key: value for key, value in LLAMA.items() if key != "dtype"}

    assert from_config({**old, "torch_dtype": "torch.float32"}).weight_bytes == 4 * from_config(LLAMA).total_params
    assert from_config(old).weight_bytes is None
    assert from_config(old).total_params == from_config(LLAMA).total_params


def test_everything_that_is_missing_is_told_at_once():
    assert [problem.path for problem in refused({"model_type": "llama"}, place="m/config.json: ")] == [
        f"m/config.json: {name}"
        for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size")
    ]


@pytest.mark.parametrize(
    ("changed", "paths"),
    [
        ({"hidden_size": 0}, ["hidden_size"]),
        ({"hidden_size": "4096", "vocab_size": True}, ["hidden_size", "vocab_size"]),
        ({"head_dim": -1, "num_hidden_layers": 1.5}, ["num_hidden_layers", "head_dim"]),
        ({"num_hidden_layers": 1e308}, ["num_hidden_layers"]),
        ({"num_hidden_layers": 10**12}, ["num_hidden_layers"]),
        ({"num_hidden_layers": 10**9}, ["num_hidden_layers"]),
        ({"vocab_size": 10**400}, ["vocab_size"]),
        ({"hidden_size": [4096]}, ["hidden_size"]),
        ({"attention_bias": "yes"}, ["attention_bias"]),
        ({"max_position_embeddings": "long"}, ["max_position_embeddings"]),
        ({"num_nextn_predict_layers": -1}, ["num_nextn_predict_layers"]),
        ({"dtype": "bf17"}, ["dtype"]),
        ({"dtype": 16}, ["dtype"]),
        ({"quantization_config": []}, ["quantization_config"]),
        ({"quantization_config": {"quant_method": "magic"}}, ["quantization_config.quant_method"]),
        ({"quantization_config": {"quant_method": ["fp8"]}}, ["quantization_config.quant_method"]),
        ({"model_type": "qwen3", "layer_types": ["full_attention"]}, ["layer_types"]),
        ({"model_type": "qwen3", "layer_types": ["full_attention", {}]}, ["layer_types[1]"]),
        ({"model_type": "qwen3", "layer_types": "full"}, ["layer_types"]),
        ({"model_type": "mixtral", "num_local_experts": 2, "num_experts_per_tok": 4}, ["num_experts_per_tok"]),
        ({"model_type": 3}, ["model_type"]),
        ({"model_type": None}, ["model_type"]),
    ],
    ids=str,
)
def test_what_cannot_be_is_told_with_key_value_reason_and_fix(changed, paths):
    problems = refused({**LLAMA, **changed})

    assert [problem.path for problem in problems] == paths
    assert all(problem.reason and problem.fix and len(str(problem)) < 2000 for problem in problems)


def test_an_unknown_architecture_says_what_is_missing_and_how_to_declare_it():
    (problem,) = refused({**LLAMA, "model_type": "lama"})

    assert problem.path == "model_type"
    assert "not known" in problem.reason
    assert "Did you mean llama?" in problem.fix
    assert '"total_params"' in problem.fix


@pytest.mark.parametrize("total", [1, 10**15])
def test_an_index_of_another_model_is_refused(total):
    (problem,) = refused(LLAMA, index=Index(total, ("model.safetensors",), 1))

    assert problem.path == "metadata.total_size"


def test_with_an_index_the_bytes_are_those_of_the_files():
    params = from_config(LLAMA).total_params
    blueprint = from_config(LLAMA, index=Index(2 * params + 512, ("model.safetensors",), 1))

    assert blueprint.weight_bytes == 2 * params + 512
    assert blueprint.weights_from == "index"


@pytest.mark.parametrize("model", GOLDEN, ids=lambda model: model.name)
def test_experts_and_further_tokens_are_told(model):
    blueprint = from_config({**model.config(), "num_nextn_predict_layers": 2})

    assert blueprint.is_moe == (model.active is not None)
    assert blueprint.nextn == 2


def test_s3_11_equal_in_every_process():
    code = (
        "import json, sys; from tandem.blueprint.config import from_config; "
        "from tandem.blueprint.document import canonical; print(canonical(from_config(json.load(sys.stdin))))"
    )
    texts = {
        subprocess.run(
            [sys.executable, "-c", code],
            input=json.dumps(DEEPSEEK_V3),
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "4242")
    }

    assert len(texts) == 1
