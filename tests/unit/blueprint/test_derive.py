"""Defaults that follow from a model and the memory of a worker."""

from dataclasses import replace

import pytest

from tandem.blueprint.ask import served
from tandem.blueprint.config import from_config
from tandem.blueprint.derive import derive
from tandem.blueprint.document import from_dict
from tandem.blueprint.fits import CPU_RESERVE, GIB, Room, judge
from tandem.blueprint.gpus import gpu_memory
from tests.unit.blueprint.configs import DEEPSEEK_V3, GOLDEN, NEMOTRON_NANO, config

LLAMA = from_config(GOLDEN[0].config())
LARGE = from_config(GOLDEN[1].config())
SMALL = from_config(config("llama", (256, 4, 4, 2, 64, 512, 1000)))
ONE_GPU = {"tensor_parallel_size": 1}
DEEPSEEK = from_config(DEEPSEEK_V3)


def gpu(name):
    return Room(memory=gpu_memory(name))


def cpu(size):
    return Room(memory=size, usable=1.0, reserve=CPU_RESERVE, gpu=False)


@pytest.mark.parametrize(
    ("model", "name", "gpus", "given", "expected"),
    [
        # 16 GiB of weights and of cache for one sequence on 72 GiB: one GPU holds the longest sequence.
        (LLAMA, "H100-80GB", 8, {}, {"tensor_parallel_size": 1, "max_seq_len": 131072, "max_batch_size": 215}),
        # One GPU of 24 GB holds the weights, and a shorter sequence; two hold the longest.
        (LLAMA, "L4-24GB", 1, {}, {"tensor_parallel_size": 1, "max_seq_len": 19456, "max_batch_size": 9}),
        (LLAMA, "L4-24GB", 8, {}, {"tensor_parallel_size": 2, "max_seq_len": 131072, "max_batch_size": 81}),
        (LARGE, "H100-80GB", 8, {}, {"tensor_parallel_size": 4, "max_seq_len": 131072, "max_batch_size": 230}),
        (DEEPSEEK, "H200-141GB", 8, {}, {"tensor_parallel_size": 8, "max_seq_len": 163840, "max_batch_size": 256}),
        # What is given stays, and the rest follows from it.
        (LLAMA, "H100-80GB", 8, {"max_seq_len": 4096}, {"tensor_parallel_size": 1, "max_batch_size": 215}),
        (LLAMA, "H100-80GB", 8, {"max_batch_size": 3}, {"tensor_parallel_size": 1, "max_seq_len": 131072}),
        (LLAMA, "L4-24GB", 8, {"tensor_parallel_size": 1}, {"max_seq_len": 19456, "max_batch_size": 9}),
        # Somebody shares the model in another way: nothing is added to that.
        (LARGE, "H100-80GB", 8, {"pipeline_parallel_size": 4}, {"max_seq_len": 131072, "max_batch_size": 217}),
        # A step of few tokens runs few sequences; a prompt that is computed whole is no longer than a step.
        (LLAMA, "H100-80GB", 1, {"max_num_tokens": 64, "max_seq_len": 4096}, {"max_batch_size": 64} | ONE_GPU),
        (
            LLAMA,
            "H100-80GB",
            1,
            {"max_num_tokens": 4000, "enable_chunked_prefill": False},
            {"max_seq_len": 4000, "max_batch_size": 217} | ONE_GPU,
        ),
        (SMALL, "T4-16GB", 8, {}, {"tensor_parallel_size": 1, "max_seq_len": 131072, "max_batch_size": 256}),
    ],
)
def test_what_follows_on_gpus(model, name, gpus, given, expected):
    found = derive(model, "vllm", given, gpu(name), gpus=gpus)

    assert found.parameters == expected
    assert found.fits
    assert judge(model, found.load, found.split, gpu(name)).fits


@pytest.mark.parametrize(
    ("size", "given", "expected"),
    [
        (GIB, {}, {"max_seq_len": 39424, "max_batch_size": 16, "kv_cache_max_tokens": 39664}),
        (8 * GIB, {}, {"max_seq_len": 131072, "max_batch_size": 16, "kv_cache_max_tokens": 1874672}),
        (8 * GIB, {"kv_cache_max_tokens": 4096}, {"max_seq_len": 4096, "max_batch_size": 16}),
        (8 * GIB, {"max_batch_size": 2}, {"max_seq_len": 131072}),
        (8 * GIB, {"max_seq_len": 1024}, {"max_batch_size": 16}),
    ],
)
def test_what_follows_for_the_bundled_server_in_a_memory_limit(size, given, expected):
    model = served(SMALL, "torch", gpu=False)

    found = derive(model, "torch", given, cpu(size), gpus=8)

    assert found.parameters == expected
    assert judge(model, found.load, found.split, cpu(size)).fits


@pytest.mark.parametrize("backend", ["vllm", "sglang", "trtllm"])
@pytest.mark.parametrize("name", ["A100-40GB", "L4-24GB", "H200-141GB"])
@pytest.mark.parametrize("batch", [None, 128])
def test_what_follows_fits_wherever_a_short_sequence_does(backend, name, batch):
    for model in (LLAMA, LARGE, DEEPSEEK):
        for gpus in (1, 4):
            found = derive(model, backend, {"max_batch_size": batch}, gpu(name), gpus=gpus, whole=True, waits=True)
            short = {**found.parameters, "max_seq_len": 256, "max_batch_size": batch or 1}

            assert found.fits == derive(model, backend, short, gpu(name), gpus=gpus, waits=True).fits


def test_gpus_that_a_worker_is_given_are_all_used():
    sizes = [
        derive(model, "vllm", {}, gpu("H100-80GB"), gpus=gpus, whole=True).parameters["tensor_parallel_size"]
        for model, gpus in ((LLAMA, 4), (LARGE, 8), (LLAMA, 3), (LLAMA, 1))
    ]

    assert sizes == [4, 8, 2, 1]


def test_without_a_room_only_the_length_is_known():
    assert derive(LLAMA, "vllm", {}, None, gpus=8).parameters == {"max_seq_len": 131072}
    assert derive(LLAMA, "vllm", {"max_seq_len": 8}, None, gpus=8).parameters == {}
    assert derive(replace(LLAMA, max_seq_len=None), "vllm", {}, None).parameters == {}


def test_what_fits_nowhere_has_the_models_own_length_and_no_batch():
    found = derive(LARGE, "vllm", {}, gpu("T4-16GB"), gpus=4)

    assert found.parameters == {"tensor_parallel_size": 4, "max_seq_len": 131072}
    assert not found.fits


def test_gpus_that_cannot_share_the_heads_are_not_asked_for():
    model = from_config(config("qwen2", (3584, 28, 28, 4, 128, 18944, 152064)))

    found = derive(model, "vllm", {}, Room(memory=4 * GIB), gpus=8)

    assert found.parameters["tensor_parallel_size"] == 4


def test_what_is_asked_as_typical_says_how_many_sequences():
    short, long = (derive(LLAMA, "vllm", {}, gpu("H100-80GB"), typical=typical) for typical in (1024, 65536))

    assert (short.parameters["max_batch_size"], long.parameters["max_batch_size"]) == (256, 6)
    assert short.parameters["max_seq_len"] == long.parameters["max_seq_len"]


def test_states_count_for_every_sequence():
    model = from_config(NEMOTRON_NANO)
    found = derive(model, "vllm", {}, gpu("H100-80GB"), gpus=1)
    batch = found.parameters["max_batch_size"]

    assert judge(model, found.load, found.split, gpu("H100-80GB")).parts.kv >= batch * 49_082_368


def test_declared_numbers_give_defaults_too():
    model = from_dict(
        {"schema_version": 1, "weight_bytes": 14 * 10**9, "kv_bytes_per_token": 131072, "max_seq_len": 32768}
    )

    found = derive(model, "vllm", {}, gpu("H100-80GB"), gpus=8)

    assert found.parameters == {"tensor_parallel_size": 1, "max_seq_len": 32768, "max_batch_size": 226}


@pytest.mark.parametrize("backend", ["vllm", "sglang", "trtllm", "torch"])
@pytest.mark.parametrize("model", [LLAMA, LARGE, DEEPSEEK, SMALL], ids=lambda model: str(model.total_params))
@pytest.mark.parametrize("size", [1, 16, 80, 192])
def test_what_is_derived_fits_or_nothing_does(backend, model, size):
    room = Room(memory=size * GIB)
    found = derive(model, backend, {}, room, gpus=8)

    assert found.fits == judge(model, found.load, found.split, room).fits == ("max_batch_size" in found.parameters)
    # What is derived is what would be derived beside it: nothing moves when values become given.
    assert derive(model, backend, found.parameters, room, gpus=8).parameters == {}
