"""`--set` and `--set-string`: what a value becomes."""

import pytest

from tandem.api.problems import Refused
from tandem.generator.overrides import parse_overrides
from tandem.generator.schemas import load_schema

SCHEMA = load_schema()


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        ("Workers.prefill.tensor_parallel_size=4", {"Workers": {"prefill": {"tensor_parallel_size": 4}}}),
        ("Workers.agg.tensor_parallel_size=-3", {"Workers": {"agg": {"tensor_parallel_size": -3}}}),
        ("Workers.agg.trust_remote_code=true", {"Workers": {"agg": {"trust_remote_code": True}}}),
        ("Workers.agg.trust_remote_code=False", {"Workers": {"agg": {"trust_remote_code": False}}}),
        ("Workers.agg.cuda_graph_batch_sizes=[1, 2]", {"Workers": {"agg": {"cuda_graph_batch_sizes": [1, 2]}}}),
        ("Workers.agg.max_seq_len=null", {"Workers": {"agg": {"max_seq_len": None}}}),
        ("Workers.agg.max_seq_len=", {"Workers": {"agg": {"max_seq_len": None}}}),
        (
            "Workers.agg.kv_cache_free_gpu_memory_fraction=.5",
            {"Workers": {"agg": {"kv_cache_free_gpu_memory_fraction": 0.5}}},
        ),
        ("SlaConfig.ttft=300", {"SlaConfig": {"ttft": 300}}),
        ("SlaConfig.ttft=3e2", {"SlaConfig": {"ttft": 300.0}}),
        ("WorkerCounts.agg_workers=2", {"WorkerCounts": {"agg_workers": 2}}),
        # What YAML alone would make True, 1.2, 1000 and a date.
        ("ServiceConfig.served_model_name=yes", {"ServiceConfig": {"served_model_name": "yes"}}),
        ("ServiceConfig.served_model_name=1.20", {"ServiceConfig": {"served_model_name": "1.20"}}),
        ("ServiceConfig.served_model_name=1_000", {"ServiceConfig": {"served_model_name": "1_000"}}),
        ("K8sConfig.k8s_image=2026-01-02", {"K8sConfig": {"k8s_image": "2026-01-02"}}),
        # The first = ends the key.
        ("ServiceConfig.model_path=a=b=c", {"ServiceConfig": {"model_path": "a=b=c"}}),
        ("Workers.agg={tensor_parallel_size: 2}", {"Workers": {"agg": {"tensor_parallel_size": 2}}}),
    ],
)
def test_s0_27_a_value_is_cast_to_the_type_of_its_key(item, expected):
    assert parse_overrides([item], schema=SCHEMA) == expected


@pytest.mark.parametrize("text", ["null", "true", "4", "", "a=b", "[1"])
def test_s0_27_set_string_takes_the_text_as_it_is(text):
    found = parse_overrides([], texts=[f"ServiceConfig.served_model_name={text}"], schema=SCHEMA)

    assert found == {"ServiceConfig": {"served_model_name": text}}


def test_s0_27_values_are_merged_and_the_last_wins():
    items = ["Workers.agg.max_seq_len=1", "Workers.agg.max_batch_size=2", "Workers.agg.max_seq_len=3"]

    assert parse_overrides(items, schema=SCHEMA) == {"Workers": {"agg": {"max_seq_len": 3, "max_batch_size": 2}}}


@pytest.mark.parametrize(
    ("item", "problem"),
    [
        ("ServiceConfig.port", "--set: there is no = in it (got 'ServiceConfig.port'). Write KEY=VALUE."),
        ("=1", "--set: the key is not a dotted name (got '=1'). Write GROUP.KEY=VALUE."),
        ("a b=1", "--set: the key is not a dotted name (got 'a b=1'). Write GROUP.KEY=VALUE."),
        (
            "ServiceConfig.port=1_000",
            "--set ServiceConfig.port: must be a whole number (got '1_000'). Write a whole number in plain digits.",
        ),
        (
            "ServiceConfig.include_frontend=yes",
            "--set ServiceConfig.include_frontend: must be true or false (got 'yes'). Write true or false.",
        ),
        ("SlaConfig.ttft=nan", "--set SlaConfig.ttft: must be a number (got 'nan'). Write a number in plain digits."),
        (
            "Workers.agg.cuda_graph_batch_sizes=[1,",
            "--set Workers.agg.cuda_graph_batch_sizes:2:1: malformed YAML: did not find expected node content. "
            "Check indentation, quotes and brackets there.",
        ),
        (
            f"Workers.agg.cuda_graph_batch_sizes={'[' * 3000}",
            "--set Workers.agg.cuda_graph_batch_sizes:1:101: nested too deeply. Write at most 100 levels.",
        ),
        (
            "Workers.agg.cuda_graph_batch_sizes=4",
            "--set Workers.agg.cuda_graph_batch_sizes: must be a list (got '4'). Write a list, like [1,2,4].",
        ),
    ],
)
def test_s0_27_what_cannot_be_cast_is_refused(item, problem):
    with pytest.raises(Refused) as refused:
        parse_overrides([item], schema=SCHEMA)

    assert str(refused.value) == problem


def test_s0_27_every_mistake_is_told_at_once():
    with pytest.raises(Refused) as refused:
        parse_overrides(["a", "ServiceConfig.port=x"], texts=["b"], schema=SCHEMA)

    assert [problem.path for problem in refused.value.problems] == ["--set", "--set ServiceConfig.port", "--set-string"]
