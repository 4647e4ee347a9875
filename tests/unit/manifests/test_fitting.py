"""Whether roles fit, and the defaults that follow from a model."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from tandem.blueprint.text import read_text
from tandem.manifests.build import build
from tandem.manifests.fitting import RoleFit, Unjudged, gpu_memory_of, memory_of_labels
from tests.unit.blueprint.configs import GOLDEN, NEMOTRON_NANO
from tests.unit.manifests.deployments import deployment

MODELS = {each.name: read_text(json.dumps(each.config()), each.name) for each in GOLDEN}
LLAMA = MODELS["Llama-3.1-8B"]
H100 = 81_559 * 2**20


def resource(**spec):
    return deployment(**{"model": {"pvc": {"claimName": "models", "path": "llama"}}, **spec})


def on_cpu(limit, **spec):
    return resource(backend="torch", roles={"agg": {"resources": {"limits": {"memory": limit}}}}, **spec)


def built(found, cluster, **sizes):
    return build(found, blueprint=LLAMA, cluster=replace(cluster, gpu_memory=sizes))


def test_a_cpu_role_is_judged_against_its_memory_limit(cluster):
    (fit,) = built(on_cpu("40Gi", parameters={"maxSeqLen": 2048, "maxBatchSize": 1}), cluster).fits

    assert fit.verdict.fits
    assert fit.verdict.available == 40 * 2**30
    assert "weights 29.92 GiB" in fit.told


@pytest.mark.parametrize(
    ("arguments", "weights"),
    [
        (["--dtype", "bfloat16"], "weights 14.96 GiB"),
        (["--dtype=float16"], "weights 14.96 GiB"),
        (["--dtype", "auto"], "weights 29.92 GiB"),
        (["--log-level", "debug", "--quantization", "int8"], "weights 8.46 GiB"),
    ],
)
def test_the_number_formats_that_the_bundled_server_is_told_count(cluster, arguments, weights):
    role = {"resources": {"limits": {"memory": "40Gi"}}, "extraArgs": arguments}
    found = resource(backend="torch", roles={"agg": role}, parameters={"maxSeqLen": 2048, "maxBatchSize": 1})

    (fit,) = built(found, cluster).fits

    assert weights in fit.told


def test_what_does_not_fit_says_what_would(cluster):
    found = built(on_cpu("34Gi", parameters={"maxSeqLen": 8192, "maxBatchSize": 8}), cluster)

    (problem,) = found.misfits
    assert problem.path == "spec.roles.agg"
    assert "does not fit: needs" in problem.reason
    assert "maxSeqLen: 889 (needs 34.00 GiB)" in problem.fix
    assert problem.fix.endswith("or set spec.overrideFits: true.")


def test_a_role_without_a_limit_is_not_judged(cluster):
    (fit,) = built(resource(backend="torch"), cluster).fits

    assert isinstance(fit, Unjudged)
    assert str(fit.why).startswith("spec.roles.agg.resources.limits.memory")


def test_defaults_follow_from_the_model_and_the_memory(cluster):
    found = built(resource(backend="vllm"), cluster, agg=24_000 * 2**20)

    derived = {value.name: value for value in found.parameters if value.source == "blueprint"}
    assert set(derived) >= {"max_seq_len", "tensor_parallel_size"}
    assert derived["max_seq_len"].detail == f"blueprint {LLAMA.digest[:12]}"
    (fit,) = found.fits
    assert isinstance(fit, RoleFit)
    assert fit.verdict.fits


def test_a_batch_size_of_a_rule_is_held_against_the_memory_as_sequences_that_wait_for_room(cluster):
    given = {"maxSeqLen": 131072, "tensorParallelSize": 1}
    found = built(resource(backend="vllm", parameters=given), cluster, agg=40_960 * 2**20)

    (batch,) = [value for value in found.parameters if value.name == "max_batch_size"]
    (fit,) = found.fits
    assert (batch.source, fit.load.batch) == ("rule", batch.value)
    assert fit.verdict.fits
    # The cache holds more than one of them, and not all.
    assert 131072 <= fit.load.cache_tokens < batch.value * 131072
    assert fit.verdict.parts.total > 0.99 * fit.verdict.available


def test_a_batch_size_of_a_rule_that_has_no_room_says_so(cluster):
    hybrid = read_text(json.dumps(NEMOTRON_NANO), "nemotron")
    own = {"maxSeqLen": 4096, "tensorParallelSize": 1}
    two = [
        build(
            resource(backend="vllm", parameters=parameters),
            blueprint=hybrid,
            cluster=replace(cluster, gpu_memory={"agg": 72 * 2**30}),
        ).fits[0]
        for parameters in (own, {**own, "maxBatchSize": 1})
    ]

    # Each of 128 sequences has a state of 49 MB.
    assert [fit.load.batch for fit in two] == [128, 1]
    assert two[0].verdict.parts.kv - two[1].verdict.parts.kv >= 127 * 49_082_368
    assert [fit.verdict.fits for fit in two] == [False, True]
    assert two[0].changes[0].parameter == "max_batch_size"


def test_more_gpus_come_with_the_limit_that_lets_a_pod_have_them(cluster):
    limit = {"limits": {"nvidia.com/gpu": 1}}
    found = build(
        resource(backend="vllm", roles={"agg": {"resources": limit}}),
        blueprint=MODELS["Llama-3.1-70B"],
        cluster=replace(cluster, gpu_memory={"agg": H100}),
    )

    (fit,) = found.fits
    assert any(way.startswith("tensorParallelSize: 4 and nvidia.com/gpu: 4 (needs ") for way in fit.ways)
    assert any(way.startswith("a checkpoint in FP8 (needs ") for way in fit.ways) == any(
        change.parameter == "weights" for change in fit.changes
    )


def test_a_pod_with_fewer_gpus_than_its_worker_needs_does_not_fit(cluster):
    two = {"resources": {"limits": {"nvidia.com/gpu": 2}}}
    sizes = {"tensorParallelSize": 4, "maxSeqLen": 4096}

    found = built(resource(backend="vllm", roles={"agg": two}, parameters=sizes), cluster, agg=H100)

    (problem,) = found.misfits
    assert "resources.limits[nvidia.com/gpu]: the parallel sizes need 4 GPUs (got 2)" in problem.reason
    assert problem.fix.startswith("Correct that")


def test_gpus_that_cannot_share_the_model_are_told_with_those_that_can(cluster):
    seven = MODELS["Qwen2.5-7B"]
    own = {"tensorParallelSize": 8, "maxSeqLen": 4096}
    sized = replace(cluster, gpu_memory={"agg": H100})

    (fit,) = build(resource(backend="vllm", parameters=own), blueprint=seven, cluster=sized).fits

    assert "cannot run: needs" in fit.told
    assert "tensorParallelSize: 28 attention heads cannot be shared evenly by 8 GPUs (got 8)" in fit.told
    assert "Use one of 1, 2, 4." in fit.told
    assert any(way.startswith("tensorParallelSize: 4 (needs") for way in fit.ways)


def test_gpus_of_all_nodes_of_a_worker_need_not_be_in_one_pod(cluster):
    eight = {"resources": {"limits": {"nvidia.com/gpu": 8}}}
    spanning = replace(cluster, apis=frozenset({"leaderworkerset.x-k8s.io/v1/LeaderWorkerSet"}))

    found = built(
        resource(
            backend="vllm",
            roles={"agg": eight},
            parameters={"tensorParallelSize": 8, "pipelineParallelSize": 2, "maxSeqLen": 4096},
        ),
        spanning,
        agg=H100,
    )

    assert found.misfits == ()


PARAMETERS = {
    "max_batch_size": "maxBatchSize",
    "max_seq_len": "maxSeqLen",
    "tensor_parallel_size": "tensorParallelSize",
}


@pytest.mark.parametrize(
    ("backend", "given", "size"),
    [
        ("torch", {"maxBatchSize": 16, "maxSeqLen": 32768}, None),
        ("sglang", {"maxBatchSize": 64, "maxSeqLen": 2000}, 24_000),
        ("vllm", {"maxBatchSize": 64, "maxSeqLen": 16384}, 24_000),
        ("vllm", {"maxBatchSize": 256, "maxSeqLen": 32768, "dataParallelSize": 4}, 40_960),
        (
            "trtllm",
            {"maxBatchSize": 64, "maxSeqLen": 16384, "enableAttentionDp": True, "tensorParallelSize": 1},
            40_960,
        ),
        ("trtllm", {"maxSeqLen": 131072, "tensorParallelSize": 1}, 24_000),
    ],
)
def test_each_change_that_is_named_is_enough_when_it_is_made(cluster, backend, given, size):
    def fit(parameters):
        own = (
            on_cpu("36Gi", parameters=parameters) if size is None else resource(backend=backend, parameters=parameters)
        )
        return built(own, cluster, **({} if size is None else {"agg": size * 2**20})).fits[0]

    named = [change for change in fit(given).changes if change.parameter in PARAMETERS]

    assert named
    for change in named:
        made = fit({**given, PARAMETERS[change.parameter]: change.value})
        assert made.verdict.fits, (change, made.told)


def test_the_bundled_server_is_asked_for_nothing_that_it_cannot(cluster):
    one = {"agg": {"resources": {"limits": {"nvidia.com/gpu": 1}}}}
    (fit,) = built(
        resource(backend="torch", roles=one, parameters={"maxSeqLen": 4096}), cluster, agg=12_000 * 2**20
    ).fits

    assert not fit.verdict.fits
    assert {change.parameter for change in fit.changes} <= {"max_batch_size", "max_seq_len"}


def test_a_memory_limit_that_would_do_is_named(cluster):
    (fit,) = built(on_cpu("16Gi", parameters={"maxSeqLen": 2048, "maxBatchSize": 1}), cluster).fits
    (way,) = [way for way in fit.ways if way.startswith("resources.limits.memory: ")]

    (other,) = built(on_cpu(way.split()[1], parameters={"maxSeqLen": 2048, "maxBatchSize": 1}), cluster).fits
    assert other.verdict.fits


def test_copies_are_told_apart_from_the_batch_size_of_each(cluster):
    own = {"dataParallelSize": 4, "maxBatchSize": 256, "maxSeqLen": 32768}
    (fit,) = built(resource(backend="vllm", parameters=own), cluster, agg=H100).fits

    assert "4 copies × batch 256 × 32768 tokens" in fit.told


def test_the_time_to_start_follows_from_the_bytes_to_load(cluster):
    own = {"containers": [{"name": "server", "startupProbe": {"periodSeconds": 5, "failureThreshold": 100}}]}
    found = built(resource(backend="vllm"), cluster, agg=H100)
    other = built(resource(backend="vllm", roles={"agg": {"podTemplate": {"spec": own}}}), cluster, agg=H100)
    without = build(resource(backend="vllm"), cluster=cluster)

    seconds = 1800 + LLAMA.weight_bytes // 10**7
    (deadline,) = found.deadlines
    told = deadline.in_effect
    assert (told.role, told.value, told.source) == ("agg", seconds + seconds % 2, "blueprint")
    assert told.detail == f"blueprint {LLAMA.digest[:12]}"
    (given,) = other.deadlines
    assert (given.in_effect.value, given.in_effect.source, given.otherwise) == (500, "user", told)
    assert [each.in_effect.source for each in without.deadlines] == ["default"]
    assert [each.in_effect.source for each in built(on_cpu("40Gi"), cluster).deadlines] == ["default"]


def test_values_of_the_user_always_win(cluster):
    found = built(resource(backend="vllm", parameters={"maxSeqLen": 512}), cluster, agg=H100)

    assert {value.source for value in found.parameters if value.name == "max_seq_len"} == {"parameters"}


def test_without_a_blueprint_nothing_follows(cluster):
    found = build(resource(backend="vllm"), cluster=cluster)

    assert found.fits == ()
    assert "blueprint" not in {value.source for value in found.parameters}


@pytest.mark.parametrize(
    ("labels", "memory"),
    [
        ({"nvidia.com/gpu.memory": "81559", "nvidia.com/gpu.product": "other"}, H100),
        ({"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"}, H100),
        ({"nvidia.com/gpu.product": "Tesla-T4"}, 15_360 * 2**20),
        ({"nvidia.com/gpu.product": "NVIDIA-GeForce-RTX-4090"}, 24_564 * 2**20),
        ({"nvidia.com/gpu.product": "NVIDIA-A100-SXM4-40GB"}, 40_960 * 2**20),
        ({"nvidia.com/gpu.product": "NVIDIA-A100"}, None),
        ({"nvidia.com/gpu.memory": "many"}, None),
        ({}, None),
    ],
)
def test_a_node_tells_the_memory_of_its_gpus(labels, memory):
    assert memory_of_labels(labels) == memory


def test_the_smallest_gpu_that_the_selector_allows_counts():
    pool = {"podTemplate": {"spec": {"nodeSelector": {"pool": "a"}}}}
    nodes = [
        {"pool": name, "nvidia.com/gpu.memory": size} for name, size in (("a", "81559"), ("a", "40960"), ("b", "1"))
    ]

    assert gpu_memory_of(resource(backend="vllm", roles={"agg": pool}), nodes) == {"agg": 40_960 * 2**20}
    assert gpu_memory_of(resource(backend="torch"), nodes) == {}


def test_no_more_gpus_are_taken_than_were_given(cluster):
    two = resource(backend="vllm", roles={"agg": {"resources": {"limits": {"nvidia.com/gpu": 2}}}})

    sizes = {value.name: value.value for value in built(two, cluster, agg=14_000 * 2**20).parameters}
    assert sizes["tensor_parallel_size"] <= 2
