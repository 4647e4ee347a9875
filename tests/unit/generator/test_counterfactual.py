"""What a value would have been without the user's own."""

from tandem.api.load import parse_resource
from tandem.generator.counterfactual import without
from tandem.manifests import Cluster


def deployment(**spec):
    return parse_resource(
        {
            "apiVersion": "tandem.dev/v1alpha1",
            "kind": "ModelDeployment",
            "metadata": {"name": "m"},
            "spec": {"model": {"hub": {"repo": "a/b"}}, "backend": "vllm", "mode": "disagg", **spec},
        }
    )


def test_a_rule_would_have_given_the_value(library):
    found = without(
        deployment(
            parameters={"maxBatchSize": 7}, roles={"prefill": {"parameters": {"maxBatchSize": 3}}, "decode": {}}
        ),
        "max_batch_size",
        cluster=Cluster(library=library),
    )

    assert {role: (value.value, value.source) for role, value in found.items()} == {
        "prefill": (1, "rule"),
        "decode": (128, "rule"),
    }


def test_the_engine_would_have_decided(library):
    wanted = deployment(parameters={"tensorParallelSize": 4}, roles={"prefill": {}, "decode": {}})

    assert without(wanted, "tensor_parallel_size", cluster=Cluster(library=library)) == {
        "prefill": None,
        "decode": None,
    }
    assert wanted.spec.parameters.tensor_parallel_size == 4


def test_a_deployment_that_cannot_be_without_the_value_is_told(library):
    wanted = deployment(
        backend="trtllm",
        mode="agg",
        rules={"configMapRef": {"name": "none"}},
        parameters={"tensorParallelSize": 4, "moeExpertParallelSize": 4},
    )

    found = without(wanted, "tensor_parallel_size", cluster=Cluster(library=library, rules={"trtllm.rule": ""}))

    assert [problem.path for problem in found["agg"].problems] == ["spec.parameters.moeExpertParallelSize"]
