"""The shipped rule files: what they give for each backend and set, and what the benchmark set changes."""

import pytest

from tandem.rendering.evaluation import evaluate_rules
from tandem.rendering.library import RULE_SETS
from tandem.rendering.mapping import PARAMETER_NAMES
from tandem.rendering.pipeline import render
from tandem.rendering.vocabulary import CONTEXT_NAMES, ROLES
from tests.unit.rendering.test_pipeline import request

BACKENDS = ("torch", "vllm", "sglang", "trtllm")
NOTHING = dict.fromkeys((*PARAMETER_NAMES, *CONTEXT_NAMES))


def given_by(library, backend, role, *, rule_set="production", isl=4000, **user):
    """What the rules of a backend give for a role, beside what the user set."""
    facts = {"role": role, "mode": "agg" if role == "agg" else "disagg", "backend": backend, "isl": isl}
    rules = library.rule_file(rule_set, backend)
    values = {**NOTHING, "concurrency": 16, **facts, **user}
    hits = evaluate_rules(rules, role=role, values=values, given=user)
    return {hit.name: hit.value for hit in hits if hit.outcome == "applied"}


SIZES = tuple(range(1, 65))
# isl=4000, bs=64: what S0.37 promises, for each backend and role.
GOLDEN = {
    ("torch", "agg"): {},
    ("torch", "prefill"): {},
    ("torch", "decode"): {},
    ("vllm", "agg"): {"max_num_tokens": 5564},
    ("vllm", "prefill"): {"max_num_tokens": 5500},
    ("vllm", "decode"): {"max_num_tokens": 64},
    ("sglang", "agg"): {"max_prefill_tokens": 5500, "cuda_graph_batch_sizes": SIZES},
    ("sglang", "prefill"): {"max_prefill_tokens": 5500, "cuda_graph_batch_sizes": SIZES},
    ("sglang", "decode"): {"max_prefill_tokens": 5500, "cuda_graph_batch_sizes": SIZES},
    ("trtllm", "agg"): {
        "disable_overlap_scheduler": False,
        "tokens_per_block": 32,
        "max_num_tokens": 5568,  # 5564, in whole blocks
        "cuda_graph_batch_sizes": SIZES,
    },
    ("trtllm", "prefill"): {
        "disable_overlap_scheduler": True,
        "tokens_per_block": 32,
        "max_num_tokens": 5504,
        "cuda_graph_batch_sizes": SIZES,
    },
    ("trtllm", "decode"): {
        "disable_overlap_scheduler": False,
        "tokens_per_block": 32,
        "max_num_tokens": 64,
        "cuda_graph_batch_sizes": SIZES,
    },
}


@pytest.mark.parametrize(("backend", "role"), GOLDEN)
def test_s0_37_golden_table_of_the_shipped_rules(library, backend, role):
    assert given_by(library, backend, role, max_batch_size=64) == GOLDEN[backend, role]


@pytest.mark.parametrize("backend", ["vllm", "sglang", "trtllm"])
def test_s0_37_batches_when_the_user_says_nothing(library, backend):
    found = {role: given_by(library, backend, role)["max_batch_size"] for role in ROLES}

    assert found == {"agg": 128, "prefill": 1, "decode": 128}


def test_s0_37_the_bundled_server_fills_the_batch_that_limits_allow(library):
    assert given_by(library, "torch", "agg") == {"max_batch_size": 16}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("role", ROLES)
def test_s0_37_without_a_size_of_prompts_nothing_is_derived_from_it(library, backend, role):
    found = given_by(library, backend, role, isl=None)

    assert "max_prefill_tokens" not in found
    assert role == "decode" or "max_num_tokens" not in found


def test_s0_37_without_chunked_prefill_vllm_chooses_its_budget(library):
    assert "max_num_tokens" not in given_by(library, "vllm", "decode", enable_chunked_prefill=False)
    assert given_by(library, "vllm", "decode", enable_chunked_prefill=True)["max_num_tokens"] == 128


@pytest.mark.parametrize("role", ROLES)
def test_s0_37_the_budget_of_vllm_is_never_less_than_its_batch(library, role):
    assert given_by(library, "vllm", role, isl=1, max_batch_size=9000)["max_num_tokens"] >= 9000


@pytest.mark.parametrize("rule_set", RULE_SETS)
def test_s0_37_the_batch_of_vllm_is_never_more_than_the_budget_of_a_user(library, rule_set):
    assert given_by(library, "vllm", "decode", rule_set=rule_set, max_num_tokens=64) == (
        {"max_batch_size": 64} | ({"disable_prefix_cache": True} if rule_set == "benchmark" else {})
    )


@pytest.mark.parametrize("backend", ["sglang", "trtllm"])
@pytest.mark.parametrize(
    "user", [{"disable_cuda_graph": True}, {"cuda_graph_max_batch_size": 8}, {"max_batch_size": 513}]
)
def test_s0_37_graphs_are_left_to_the_engine_where_a_list_would_not_fit(library, backend, user):
    assert "cuda_graph_batch_sizes" not in given_by(library, backend, "decode", **user)


@pytest.mark.parametrize(("block", "expected"), [(16, 5504), (64, 5504), (128, 5504), (1, 5500), (1024, 6144)])
def test_s0_37_the_budget_of_trtllm_is_whole_blocks(library, block, expected):
    assert given_by(library, "trtllm", "prefill", tokens_per_block=block)["max_num_tokens"] == expected


def test_s0_37_experts_of_trtllm_share_the_gpus_of_a_layer(library):
    sizes = {"moe_tensor_parallel_size": 2, "moe_expert_parallel_size": 4}

    assert given_by(library, "trtllm", "agg", **sizes)["tensor_parallel_size"] == 8


@pytest.mark.parametrize(
    ("is_moe", "copies", "expected"),
    [(True, 2, [True]), (True, 1, [False]), (False, 2, []), (None, 2, []), (True, 3, []), (True, None, [])],
)
def test_s0_37_attention_of_sglang_is_data_parallel_for_experts_only(library, is_moe, copies, expected):
    values = {**NOTHING, "is_moe": is_moe, "data_parallel_size": copies, "tensor_parallel_size": 4, "max_batch_size": 1}
    hits = evaluate_rules(library.rule_file("production", "sglang"), role="agg", values=values, given=())

    found = [hit.value for hit in hits if hit.name == "enable_attention_dp" and hit.outcome == "applied"]
    assert found == expected


# What docs/rules.md says that the benchmark set changes; max_num_tokens follows from max_batch_size.
BENCHMARK_CHANGES = {
    "torch": {"max_batch_size", "disable_prefix_cache"},
    "vllm": {"max_batch_size", "disable_prefix_cache", "max_num_tokens"},
    "sglang": {"max_batch_size", "disable_prefix_cache", "cuda_graph_batch_sizes"},
    "trtllm": {"max_batch_size", "disable_prefix_cache", "cuda_graph_batch_sizes", "max_num_tokens"},
}


@pytest.mark.parametrize("backend", BACKENDS)
def test_s0_38_the_benchmark_set_changes_only_the_documented_keys(library, backend):
    changed = set()
    for role in ROLES:
        production, benchmark = (given_by(library, backend, role, rule_set=name) for name in RULE_SETS)
        changed |= {name for name in production | benchmark if production.get(name) != benchmark.get(name)}

    assert changed == BENCHMARK_CHANGES[backend]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("rule_set", RULE_SETS)
@pytest.mark.parametrize("role", ROLES)
def test_s0_37_rules_hold_for_the_largest_and_smallest_values(library, backend, rule_set, role):
    for size in (1, 1_048_576):
        for isl in (None, 1, 10_000_000):
            given_by(library, backend, role, rule_set=rule_set, isl=isl, max_batch_size=size)


# The parameters that the rules give are flags or settings of the engine, in every mode and version.
ENGINE = {
    ("vllm", "prefill"): ["--max-num-seqs 1", "--max-num-batched-tokens 5500"],
    ("vllm", "decode"): ["--max-num-seqs 128", "--max-num-batched-tokens 128"],
    ("sglang", "prefill"): ["--max-running-requests 1", "--max-prefill-tokens 5500", "--cuda-graph-bs-decode 1"],
    ("sglang", "decode"): ["--max-running-requests 128", "--max-prefill-tokens 5500", "--cuda-graph-bs-decode 1 2 3"],
    ("trtllm", "prefill"): ["max_batch_size=1", "max_num_tokens=5504", "disable_overlap_scheduler=true"],
    ("trtllm", "decode"): ["max_batch_size=128", "max_num_tokens=128", "disable_overlap_scheduler=false"],
}


@pytest.mark.parametrize(("backend", "role"), ENGINE)
def test_s0_37_what_the_rules_give_reaches_the_engine(library, backend, role):
    for version in library.tables[backend]:
        wanted = request(backend, "disagg", facts={"isl": 4000}, version=version)
        (found,) = (each for each in render(wanted, library).roles if each.role == role)

        shown = [" ".join(item.arguments) for item in found.parameters]
        for text in ENGINE[backend, role]:
            assert any(each.startswith(text) for each in shown), (version, text, shown)
