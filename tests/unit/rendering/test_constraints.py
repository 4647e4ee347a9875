"""What must hold between parameters: each contradiction is refused, at the value that is to change."""

from __future__ import annotations

from typing import Any

import pytest

from tandem.api.problems import Refused
from tandem.rendering.library import Library
from tandem.rendering.parameters import Given
from tandem.rendering.pipeline import ModelFacts, Request, RoleRendering, RoleRequest, render


def rendered(library: Library, backend: str, **values: Any) -> RoleRendering:
    given = {name: Given(value, "user", f"spec.{name}") for name, value in values.items()}
    request = Request(
        backend=backend,
        version=None,
        mode="agg",
        rule_set="production",
        roles=(RoleRequest(name="agg", given=given),),
        model=ModelFacts(path="/models/m", served_name="m"),
        names={"port": 8000, "config_dir": "/etc/tandem"},
    )
    return render(request, library).roles[0]


def refusal(library: Library, backend: str, **values: Any) -> str:
    with pytest.raises(Refused) as refused:
        rendered(library, backend, **values)
    return str(refused.value)


def test_tensor_parallel_size_is_the_product_of_the_two_of_experts(library):
    found = refusal(library, "trtllm", tensor_parallel_size=8, moe_tensor_parallel_size=2, moe_expert_parallel_size=2)

    assert found.startswith("spec.moe_expert_parallel_size: ")
    assert "tensorParallelSize 8 must be moeTensorParallelSize x moeExpertParallelSize, which is 4" in found


def test_tensor_parallel_size_follows_from_the_two_of_experts(library):
    found = rendered(library, "trtllm", moe_tensor_parallel_size=2, moe_expert_parallel_size=4)

    assert found.settings["tensor_parallel_size"] == 8


@pytest.mark.parametrize("backend", ["sglang", "trtllm"])
def test_experts_are_spread_over_a_divisor(library, backend):
    assert "must be a multiple" in refusal(library, backend, tensor_parallel_size=4, moe_expert_parallel_size=3)


def test_data_parallel_attention_divides_the_gpus_of_a_layer(library):
    found = refusal(library, "sglang", tensor_parallel_size=4, data_parallel_size=3, enable_attention_dp=True)

    assert found.startswith("spec.data_parallel_size: ")


@pytest.mark.parametrize("backend", ["sglang", "trtllm"])
def test_the_largest_graph_is_the_largest_size(library, backend):
    found = refusal(library, backend, cuda_graph_batch_sizes=(1, 8), cuda_graph_max_batch_size=16)

    assert found.startswith("spec.cuda_graph_max_batch_size: ")
    assert "which is 8" in found


def test_a_cache_smaller_than_a_block_is_refused(library):
    assert "less than one block of 64" in refusal(library, "trtllm", kv_cache_max_tokens=32, tokens_per_block=64)


def test_two_parameters_that_become_the_same_flag_are_refused(library):
    found = refusal(library, "sglang", enable_chunked_prefill=False, max_num_tokens=4096)

    assert found.startswith("spec.max_num_tokens: ")
    assert "one place for it and for enableChunkedPrefill: --chunked-prefill-size" in found


def test_a_setting_inside_a_group_that_is_switched_off_is_refused(library):
    found = refusal(library, "trtllm", disable_cuda_graph=True, cuda_graph_enable_padding=True)

    assert "one place for it and for disableCudaGraph: cuda_graph_config" in found


def test_a_name_that_sglang_reads_as_an_adapter_is_refused(library):
    request = Request(
        backend="sglang",
        version=None,
        mode="agg",
        rule_set="production",
        roles=(RoleRequest(name="agg", given={}),),
        model=ModelFacts(path="/models/m", served_name="a:b"),
        names={"port": 8000, "config_dir": "/etc/tandem"},
    )

    with pytest.raises(Refused, match=r"spec\.model\.servedName: .*colon"):
        render(request, library)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"max_batch_size": 128, "max_num_tokens": 64}, "it must be maxBatchSize at least, which is 128"),
        (
            {"enable_chunked_prefill": False, "max_num_tokens": 2048, "max_seq_len": 4096},
            "without enableChunkedPrefill it must be maxSeqLen at least, which is 4096",
        ),
    ],
)
def test_a_budget_that_vllm_would_refuse_is_refused_before(library, values, reason):
    found = refusal(library, "vllm", **values)

    assert found.startswith("spec.max_num_tokens: ")
    assert reason in found


@pytest.mark.parametrize(
    "values",
    [
        {"max_num_tokens": 64},
        {"max_batch_size": 64, "max_num_tokens": 64},
        {"max_num_tokens": 2048, "max_seq_len": 4096},
        {"enable_chunked_prefill": False, "max_seq_len": 4096},
    ],
)
def test_a_budget_that_vllm_takes_is_rendered(library, values):
    assert rendered(library, "vllm", **values).command
