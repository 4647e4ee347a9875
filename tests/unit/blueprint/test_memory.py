"""A GPU's share of a model under tensor, pipeline, expert and data parallelism."""

import pytest

from tandem.blueprint.config import from_config
from tandem.blueprint.counts import weight_bytes
from tandem.blueprint.formats import plain
from tandem.blueprint.memory import Load, stages_of, worst_gpu
from tandem.blueprint.split import ONE, Split, split_of, tensor_parallel
from tests.unit.blueprint.configs import DEEPSEEK_V3, GOLDEN, NEMOTRON_NANO, config

BF16 = plain("bfloat16")
LOAD = Load(batch=4, length=4096, step=4096)
LLAMA = GOLDEN[0].config()


def parts(document, split, load=LOAD):
    blueprint = from_config(document)
    form = blueprint.quantisation.format if blueprint.quantisation else None
    stages = stages_of(blueprint.structure, split, number=BF16, quantised=form)
    return worst_gpu(blueprint.structure, stages, load, split)


@pytest.mark.parametrize("document", [LLAMA, DEEPSEEK_V3, NEMOTRON_NANO], ids=lambda document: document["model_type"])
def test_one_gpu_has_everything(document):
    blueprint = from_config(document)

    assert parts(document, ONE).weights == blueprint.weight_bytes


def test_tensor_parallelism_cuts_matrices_and_repeats_norms():
    whole, half = parts(LLAMA, ONE), parts(LLAMA, tensor_parallel(2))
    norms = 2 * 4096 * (2 * 32 + 1)

    assert half.weights == (whole.weights - norms) // 2 + norms
    assert half.kv == whole.kv // 2


def test_kv_heads_are_repeated_on_more_gpus_than_heads():
    eight, sixteen = parts(LLAMA, tensor_parallel(8)), parts(LLAMA, tensor_parallel(16))
    kv_matrices = 2 * 32 * 4096 * 128 * 2

    assert sixteen.kv == eight.kv == parts(LLAMA, ONE).kv // 8
    norms = 2 * 4096 * (2 * 32 + 1)
    assert sixteen.weights == (eight.weights - norms - kv_matrices) // 2 + norms + kv_matrices


def test_the_cache_of_latent_attention_is_on_every_gpu():
    assert parts(DEEPSEEK_V3, tensor_parallel(8)).kv == parts(DEEPSEEK_V3, ONE).kv == 4 * 4096 * 70272


def test_pipeline_stages_share_layers_and_the_last_repeats_a_tied_embedding():
    tied = config("llama", (64, 4, 4, 4, 16, 128, 1000), tie_word_embeddings=True)
    blueprint = from_config(tied)
    embedding, norm = 2 * 1000 * 64, 2 * 64
    layer = (weight_bytes(blueprint.structure, BF16) - embedding - norm) // 4

    assert [
        stage.weights for stage in stages_of(blueprint.structure, Split(stages=2, gpus=2), number=BF16, quantised=None)
    ] == [2 * layer + embedding, 2 * layer + embedding + norm]


def test_layers_that_are_left_over_go_to_stages_in_the_middle():
    seven = config("llama", (64, 7, 4, 4, 16, 128, 1000))
    stages = stages_of(from_config(seven).structure, Split(stages=4, gpus=4), number=BF16, quantised=None)

    assert [sum(count for count, _ in stage.mixers) for stage in stages] == [2, 2, 2, 1]
    assert sum(stage.weights for stage in stages) == from_config(seven).weight_bytes


def test_expert_parallelism_spreads_experts_and_cuts_nothing_else():
    spread = split_of("sglang", {"tensor_parallel_size": 8, "moe_expert_parallel_size": 8})
    cut = split_of("sglang", {"tensor_parallel_size": 8})

    assert (spread.expert, spread.expert_groups, cut.expert, cut.expert_groups) == (1, 8, 8, 1)
    # FP8 blocks of an expert's columns that 8 GPUs cut are not full, so that only spreading shares exactly.
    assert parts(DEEPSEEK_V3, spread).weights <= parts(DEEPSEEK_V3, cut).weights


@pytest.mark.parametrize(
    ("backend", "parameters", "split"),
    [
        ("torch", {}, ONE),
        ("vllm", {"tensor_parallel_size": 4, "pipeline_parallel_size": 2}, (4, 4, 4, 1, 1, 2, 8)),
        ("vllm", {"tensor_parallel_size": 2, "data_parallel_size": 4}, (2, 2, 8, 1, 4, 1, 8)),
        (
            "vllm",
            {"tensor_parallel_size": 2, "data_parallel_size": 4, "enable_expert_parallel": True},
            (2, 2, 1, 8, 4, 1, 8),
        ),
        (
            "sglang",
            {"tensor_parallel_size": 8, "data_parallel_size": 4, "enable_attention_dp": True},
            (2, 8, 8, 1, 4, 1, 8),
        ),
        ("sglang", {"tensor_parallel_size": 2, "data_parallel_size": 4}, (2, 2, 2, 1, 1, 1, 8)),
        (
            "trtllm",
            {"tensor_parallel_size": 8, "enable_attention_dp": True, "moe_expert_parallel_size": 4},
            (1, 8, 2, 4, 8, 1, 8),
        ),
        ("trtllm", {"tensor_parallel_size": 4}, (4, 4, 4, 1, 1, 1, 4)),
    ],
    ids=str,
)
def test_parameters_of_each_backend(backend, parameters, split):
    names = ("attention", "dense", "expert", "expert_groups", "copies", "stages", "gpus")
    expected = split if isinstance(split, Split) else Split(**dict(zip(names, split, strict=True)))

    assert split_of(backend, parameters) == expected


def test_copies_of_attention_share_the_sequences():
    alone = split_of("vllm", {"tensor_parallel_size": 1})
    copies = split_of("vllm", {"data_parallel_size": 4})

    assert parts(DEEPSEEK_V3, copies).kv == parts(DEEPSEEK_V3, alone).kv // 4


def test_state_space_heads_are_shared():
    one, two = parts(NEMOTRON_NANO, ONE), parts(NEMOTRON_NANO, tensor_parallel(2))

    assert two.kv == one.kv // 2
