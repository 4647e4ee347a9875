"""The verdict: needed, available, by part, what else is wrong, and what would make it fit."""

import pytest

from tandem.api.problems import Refused
from tandem.blueprint.ask import load_of, served
from tandem.blueprint.budget import over_budget
from tandem.blueprint.config import from_config
from tandem.blueprint.counts import further_bytes
from tandem.blueprint.document import from_dict
from tandem.blueprint.fits import GIB, Room, changes, judge, shown
from tandem.blueprint.formats import plain
from tandem.blueprint.gpus import GPUS, gpu_memory
from tandem.blueprint.index import Index
from tandem.blueprint.memory import Load
from tandem.blueprint.split import ONE, Split, split_of, tensor_parallel
from tests.unit.blueprint.configs import DEEPSEEK_V3, GOLDEN, config

MODELS = {model.name: from_config(model.config()) for model in GOLDEN}
LLAMA_8B = MODELS["Llama-3.1-8B"]
H100 = Room(memory=GPUS["H100-80GB"])
LOAD = Load(batch=8, length=8192, step=8192)


def test_a_verdict_has_every_part_in_bytes():
    verdict = judge(LLAMA_8B, LOAD, ONE, H100)

    assert verdict.fits
    assert verdict.parts.weights == 16_060_522_496
    assert verdict.parts.kv == 8 * 8192 * 131072
    assert verdict.parts.activation == 8192 * 119304
    assert verdict.parts.reserve == 2 * GIB
    assert verdict.needed == verdict.parts.total <= verdict.available == int(0.9 * GPUS["H100-80GB"])
    assert "weights 14.96 GiB, KV cache 8.00 GiB" in str(verdict)


def test_the_smallest_change_of_each_kind_makes_it_fit():
    load = Load(batch=64, length=131072, step=8192)
    found = {change.parameter: change for change in changes(LLAMA_8B, load, ONE, H100)}

    assert not judge(LLAMA_8B, load, ONE, H100).fits
    assert list(found) == ["max_batch_size", "max_seq_len"]
    batch, length = found["max_batch_size"].value, found["max_seq_len"].value
    assert judge(LLAMA_8B, Load(batch=batch, length=131072, step=8192), ONE, H100).fits
    assert not judge(LLAMA_8B, Load(batch=batch + 1, length=131072, step=8192), ONE, H100).fits
    assert judge(LLAMA_8B, Load(batch=64, length=length, step=min(8192, length)), ONE, H100).fits
    assert not judge(LLAMA_8B, Load(batch=64, length=length + 16, step=8192), ONE, H100).fits


def test_more_gpus_and_other_formats_are_named_where_they_help():
    found = {change.parameter: change.value for change in changes(MODELS["Llama-3.1-70B"], LOAD, ONE, H100)}

    assert found["tensor_parallel_size"] == 4
    assert "max_batch_size" not in found  # the weights alone are too much
    by_cache = changes(LLAMA_8B, Load(batch=64, length=10_000, step=8192), ONE, H100)
    assert ("kv_cache_dtype", "fp8") in [(change.parameter, change.value) for change in by_cache]


def test_nothing_helps_is_no_change():
    assert changes(MODELS["Llama-3.1-405B"], LOAD, ONE, Room(memory=GIB, gpu=False), fp8=False) == ()


@pytest.mark.parametrize(
    ("name", "split", "said"),
    [
        ("Llama-3.1-8B", tensor_parallel(3), "32 attention heads cannot be shared evenly by 3 GPUs"),
        ("Phi-4", tensor_parallel(4), "10 KV heads cannot be shared evenly by 4 GPUs"),
        ("Qwen3-30B-A3B", Split(expert_groups=3, gpus=3), "128 experts cannot be shared evenly by 3 GPUs"),
        ("Llama-3.1-8B", Split(stages=64, gpus=64), "the model has 32 layers"),
    ],
)
def test_what_cannot_be_divided_is_told_whatever_the_memory(name, split, said):
    verdict = judge(MODELS[name], LOAD, split, Room(memory=10**15))

    assert not verdict.fits
    assert said in str(verdict)
    assert all(problem.fix for problem in verdict.problems)


def test_more_gpus_than_kv_heads_need_a_multiple():
    assert judge(LLAMA_8B, LOAD, tensor_parallel(16), H100).fits


def test_a_sequence_longer_than_the_model_takes_does_not_fit():
    verdict = judge(LLAMA_8B, Load(batch=1, length=131073, step=1), ONE, Room(memory=10**15))

    assert [problem.path for problem in verdict.problems] == ["max_seq_len"]


def test_the_bytes_of_files_are_taken_where_they_are_known():
    whole = LLAMA_8B.weight_bytes
    indexed = from_config(GOLDEN[0].config(), index=Index(whole + 1000, ("a",), 1))

    assert judge(indexed, LOAD, ONE, H100).parts.weights == whole + 1000


def test_a_tied_head_that_is_stored_twice_is_loaded_once():
    tied = GOLDEN[5]
    loaded = from_config(tied.config()).weight_bytes
    stored = loaded + 2 * 151936 * 1536

    assert tied.name == "Qwen2.5-1.5B"
    assert judge(from_config(tied.config(), index=Index(stored, ("a",), 1)), LOAD, ONE, H100).parts.weights == loaded


def test_layers_for_further_tokens_are_stored_and_not_loaded():
    blueprint = from_config(DEEPSEEK_V3)
    further = further_bytes(blueprint.structure, plain("bfloat16"), blueprint.quantisation.format)
    indexed = from_config(DEEPSEEK_V3, index=Index(blueprint.weight_bytes + further, ("a",), 1))

    assert further > 13 * 10**9
    assert judge(indexed, LOAD, ONE, H100).parts.weights == blueprint.weight_bytes


def test_declared_numbers_are_enough_and_gaps_are_told():
    declared = from_dict({"schema_version": 1, "weight_bytes": 10 * GIB})

    verdict = judge(declared, LOAD, tensor_parallel(2), H100)

    assert verdict.parts.weights == 5 * GIB
    assert verdict.notes == (
        "kv_bytes_per_token is not known, and counts as nothing",
        "activation_bytes is not known, and counts as nothing",
    )


def test_a_batch_size_that_would_fit_is_that_of_one_copy():
    asked = {"max_batch_size": 256, "max_seq_len": 32768, "data_parallel_size": 4, "tensor_parallel_size": 1}
    split, room = split_of("vllm", asked), Room(memory=80 * GIB)
    found = changes(LLAMA_8B, load_of("vllm", asked, LLAMA_8B, split), split, room)

    batch = next(change.value for change in found if change.parameter == "max_batch_size")
    for value, fits in ((batch, True), (batch + 1, False)):
        load = load_of("vllm", {**asked, "max_batch_size": value}, LLAMA_8B, split)
        assert (load.batch, judge(LLAMA_8B, load, split, room).fits) == (4 * value, fits)


def test_s3_04_a_budget_is_compared_with_numbers():
    problems = over_budget(LLAMA_8B, max_params=10**9, max_weight_bytes=10**9, max_context=4096)

    assert [problem.path for problem in problems] == [
        "spec.budget.maxParams",
        "spec.budget.maxWeightBytes",
        "spec.budget.maxContext",
    ]
    assert "8030261248" in str(problems[0])
    assert over_budget(LLAMA_8B, max_params=10**10, max_weight_bytes=None, max_context=None) == ()


@pytest.mark.parametrize("value", [-1, 0])
def test_s3_04_a_budget_that_cannot_be_is_refused(value):
    (problem,) = over_budget(LLAMA_8B, max_params=value)

    assert "above 0" in problem.reason


@pytest.mark.parametrize(
    ("backend", "parameters", "expected"),
    [
        ("sglang", {}, Load(batch=1, length=131072, step=8192)),
        ("sglang", {"max_batch_size": 4, "max_seq_len": 1000}, Load(batch=4, length=1000, step=4000)),
        ("vllm", {"max_batch_size": 4, "max_seq_len": 9}, Load(batch=4, length=9, step=8192, reserved=True)),
        (
            "sglang",
            {"max_num_tokens": 512, "kv_cache_dtype": "fp8"},
            Load(batch=1, length=131072, step=512, kv_bytes=1),
        ),
        (
            "torch",
            {"max_prefill_tokens": 256, "tokens_per_block": 32},
            Load(batch=1, length=131072, step=256, block=32),
        ),
    ],
    ids=str,
)
def test_what_a_role_asks_for(backend, parameters, expected):
    assert load_of(backend, parameters, LLAMA_8B, ONE) == expected


@pytest.mark.parametrize(
    ("backend", "gpu", "stored", "runs"),
    [
        ("torch", False, "bfloat16", "float32"),
        ("torch", True, "float32", "bfloat16"),
        ("vllm", True, "float32", "float16"),
        ("vllm", True, "bfloat16", "bfloat16"),
    ],
)
def test_the_number_format_that_a_backend_computes_in(backend, gpu, stored, runs):
    document = {**GOLDEN[0].config(), "dtype": stored}

    assert served(from_config(document), backend, gpu=gpu).dtype == runs


def test_the_bytes_of_files_in_another_format_are_not_taken():
    indexed = from_config(GOLDEN[0].config(), index=Index(LLAMA_8B.weight_bytes, ("a",), 1))
    on_cpu = served(indexed, "torch", gpu=False)

    assert judge(on_cpu, LOAD, ONE, H100).parts.weights == 2 * LLAMA_8B.weight_bytes


@pytest.mark.parametrize(("name", "same"), [("H100-80GB", "H100-80GB"), ("h200", "H200-141GB"), ("l4", "L4-24GB")])
def test_gpus_by_name(name, same):
    assert gpu_memory(name) == GPUS[same]


@pytest.mark.parametrize(
    ("name", "told"), [("H100", "H100-80GB"), ("A100", "A100-80GB"), ("X9000", "T4-16GB"), ("", "T4")]
)
def test_an_unclear_gpu_is_refused_with_those_that_may_be_meant(name, told):
    with pytest.raises(Refused) as refused:
        gpu_memory(name)

    assert told in refused.value.problems[0].fix


def test_a_model_without_dtype_is_judged_and_the_assumption_told():
    document = config("llama", (64, 2, 4, 2, 16, 128, 256))
    del document["dtype"]

    assert "bfloat16 is assumed" in judge(from_config(document), Load(batch=1, length=64, step=64), ONE, H100).notes[0]


def test_deepseek_v3_needs_more_than_one_node_of_h100():
    blueprint = from_config(DEEPSEEK_V3)

    assert not judge(blueprint, LOAD, tensor_parallel(8), H100).fits
    assert judge(blueprint, LOAD, tensor_parallel(8), Room(memory=GPUS["H200-141GB"])).fits
    assert judge(blueprint, LOAD, tensor_parallel(16), H100).fits


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0.00 GiB"), (1, "0.00 MiB"), (5 * 2**20, "5.00 MiB"), (2**30, "1.00 GiB")]
)
def test_bytes_for_people(size, text):
    assert shown(size) == text
