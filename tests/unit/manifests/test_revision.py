"""The revision changes with what prefill and decode must agree on, and with nothing else."""

import pytest

from tandem.manifests import build
from tests.unit.manifests.deployments import deployment

HUB = {"hub": {"repo": "a/b", "revision": "main"}}


def revision(cluster, **spec):
    return build(deployment(**{"backend": "vllm", "mode": "disagg", **spec}), cluster=cluster).revision


def roles(prefill=None, decode=None):
    return {"roles": {"prefill": prefill or {}, "decode": decode or {}}}


@pytest.mark.parametrize(
    "change",
    [
        {"model": {"pvc": {"claimName": "other", "path": "qwen"}}},
        {"model": {"pvc": {"claimName": "models", "path": "other"}}},
        {"model": HUB},
        {"backend": "torch"},
        {"backendVersion": "0.32.0", "image": "vllm/vllm-openai:v0.33.0"},
        {"image": "mine:1"},
        {"parameters": {"kvCacheDtype": "fp8"}},
        {"parameters": {"tokensPerBlock": 32}},
        {"parameters": {"attentionBackend": "FLASHINFER"}},
        roles({"podTemplate": {"spec": {"containers": [{"name": "server", "image": "mine:1"}]}}}),
        roles({"parameters": {"tokensPerBlock": 32}}),
        roles({"extraArgs": ["--dtype", "float16"]}),
        roles({"extraArgs": ["--dtype=float16"]}),
        roles({"extraArgs": ["--kv_cache_dtype", "fp8"]}),
        roles(decode={"extraArgs": ["--speculative-config", "{}"]}),
    ],
)
def test_what_both_ends_must_agree_on_makes_a_new_revision(cluster, change):
    assert revision(cluster, **change) != revision(cluster)


@pytest.mark.parametrize(
    "change",
    [
        {"replicas": 7},
        {"parameters": {"maxBatchSize": 3, "maxNumTokens": 4096, "tensorParallelSize": 2, "disableCudaGraph": True}},
        {"parameters": {"disaggregationBootstrapPort": 5700}},
        {"limits": {"timeoutSeconds": 9}},
        {"router": {"replicas": 3}},
        {"rollout": {"maxSurge": 3}},
        {"sla": {"isl": 100}},
        {"model": {"pvc": {"claimName": "models", "path": "qwen"}, "servedName": "other"}},
        {"imagePullPolicy": "Always"},
        {"backendVersion": "0.33.0"},
        roles({"replicas": 4, "extraArgs": ["--seed", "1"], "podTemplate": {"spec": {"nodeSelector": {"a": "b"}}}}),
        roles(decode={"resources": {"limits": {"memory": "1Gi"}}}),
    ],
)
def test_any_other_edit_keeps_the_revision(cluster, change):
    assert revision(cluster, **change) == revision(cluster)


def test_values_of_the_two_roles_are_not_mixed_up(cluster):
    first = revision(cluster, **roles({"extraArgs": ["--dtype", "float16"]}))
    second = revision(cluster, **roles(decode={"extraArgs": ["--dtype", "float16"]}))

    assert first != second


def test_repository_and_revision_of_a_hub_model_are_both_in_it(cluster):
    found = {revision(cluster, model={"hub": {"repo": repo, "revision": at}}) for repo in "ab" for at in "cd"}

    assert len(found) == 4


def test_a_difference_that_would_keep_them_from_handing_over_is_warned_of(cluster):
    def warnings(**spec):
        return build(deployment(backend="torch", mode="disagg", **spec), cluster=cluster).warnings

    int8 = {"extraArgs": ["--quantization", "int8"]}

    (warning,) = warnings(**roles(prefill=int8))
    assert warning.startswith("--quantization is int8 for prefill and not given for decode: ")
    assert warnings(**roles(prefill=int8, decode=int8)) == warnings() == ()
