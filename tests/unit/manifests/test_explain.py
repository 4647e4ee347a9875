"""Rows of `tandem explain`."""

import pytest

from tandem.api.problems import Refused
from tandem.manifests import build
from tandem.manifests.explain import explain
from tests.unit.manifests.deployments import deployment


@pytest.fixture
def result(cluster):
    roles = {"prefill": {}, "decode": {"parameters": {"maxBatchSize": 16, "cudaGraphBatchSizes": [1, 2]}}}
    parameters = {"maxSeqLen": 4096, "trustRemoteCode": False, "disaggregationBootstrapPort": 5700}
    return build(deployment(backend="vllm", mode="disagg", roles=roles, parameters=parameters), cluster=cluster)


def test_each_value_shows_where_it_comes_from_and_what_it_became(result):
    rows = [tuple(row.as_dict().values()) for row in explain(result) if row.role == "decode"]

    shared = "spec.parameters"
    own = "spec.roles.decode.parameters"
    assert rows == [
        ("decode", "cudaGraphBatchSizes", "1,2", "user", f"{own}.cudaGraphBatchSizes", "--cudagraph-capture-sizes 1 2"),
        ("decode", "maxBatchSize", "16", "user", f"{own}.maxBatchSize", "--max-num-seqs 16"),
        ("decode", "maxSeqLen", "4096", "parameters", f"{shared}.maxSeqLen", "--max-model-len 4096"),
        (
            *("decode", "disaggregationBootstrapPort", "5700", "parameters"),
            *(f"{shared}.disaggregationBootstrapPort", "VLLM_NIXL_SIDE_CHANNEL_PORT=5700"),
        ),
        ("decode", "trustRemoteCode", "false", "parameters", f"{shared}.trustRemoteCode", "--no-trust-remote-code"),
    ]


def test_a_rule_is_named_with_file_and_line(result):
    (row,) = [row for row in explain(result, "maxBatchSize") if row.role == "prefill"]

    assert (row.value, row.source) == ("1", "rule")
    assert row.detail.startswith("rules/vllm.rule:")


@pytest.mark.parametrize("name", ["maxBatchSize", "max_batch_size"])
def test_one_parameter_can_be_asked_for(result, name):
    assert {row.parameter for row in explain(result, name)} == {"maxBatchSize"}


def test_a_parameter_that_nobody_set_has_no_row(result):
    assert explain(result, "moeBackend") == ()


def test_a_parameter_that_does_not_exist_is_refused(result):
    with pytest.raises(Refused, match="there is no parameter of this name"):
        explain(result, "maxBachSize")
