"""Workers on one node and on several; ports that must not clash."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tandem.api.problems import Refused
from tandem.manifests import build
from tandem.manifests.placement import LEADER_WORKER_SET
from tests.unit.manifests.deployments import deployment, of_kind, server


@pytest.fixture(scope="module")
def nodes(cluster):
    """A cluster that serves LeaderWorkerSet."""
    return replace(cluster, apis=frozenset((LEADER_WORKER_SET,)))


def group(build_result):
    (found,) = of_kind(build_result, "LeaderWorkerSet").values()
    return found


def containers(found):
    template = found["spec"]["leaderWorkerTemplate"]
    return [template[part]["spec"]["containers"][0] for part in ("leaderTemplate", "workerTemplate")]


def refusal(cluster, **spec):
    with pytest.raises(Refused) as refused:
        build(deployment(**spec), cluster=cluster)
    return str(refused.value)


@pytest.mark.parametrize(
    ("backend", "parameters", "gpus"),
    [
        ("vllm", {"tensorParallelSize": 2, "pipelineParallelSize": 2, "dataParallelSize": 2}, "8"),
        ("sglang", {"tensorParallelSize": 2, "dataParallelSize": 2}, "4"),
        ("sglang", {"tensorParallelSize": 4, "dataParallelSize": 2, "enableAttentionDp": True}, "4"),
        ("trtllm", {"tensorParallelSize": 4, "pipelineParallelSize": 2, "enableAttentionDp": True}, "8"),
    ],
)
def test_s0_33_a_worker_that_fits_on_a_node_is_one_pod(nodes, backend, parameters, gpus):
    result = build(deployment(backend=backend, parameters=parameters), cluster=nodes)

    assert server(result, "agg")["resources"]["limits"]["nvidia.com/gpu"] == gpus
    assert not of_kind(result, "LeaderWorkerSet")


@pytest.mark.parametrize(
    ("total", "per_node", "size", "gpus"),
    [(16, 8, 2, "8"), (12, 8, 2, "6"), (8, 4, 2, "4"), (24, 8, 3, "8"), (9, 8, 3, "3")],
)
def test_s0_33_a_larger_worker_takes_as_few_nodes_as_share_it_evenly(nodes, total, per_node, size, gpus):
    source = deployment(backend="vllm", parameters={"tensorParallelSize": total})

    found = group(build(source, cluster=replace(nodes, gpus_per_node=per_node)))

    assert found["spec"]["leaderWorkerTemplate"]["size"] == size
    assert [each["resources"]["limits"]["nvidia.com/gpu"] for each in containers(found)] == [gpus, gpus]


def test_only_the_leader_serves(nodes):
    result = build(deployment(backend="vllm", parameters={"tensorParallelSize": 16}), cluster=nodes)

    leader, other = containers(group(result))
    assert "readinessProbe" in leader
    assert not [key for key in other if key.endswith("Probe")]
    assert "--headless" in other["args"]
    assert "--headless" not in leader["args"]
    service = next(item for name, item in of_kind(result, "Service").items() if name != "qwen")
    assert service["spec"]["selector"]["leaderworkerset.sigs.k8s.io/worker-index"] == "0"
    assert service["metadata"]["name"] != group(result)["metadata"]["name"]


def test_the_pods_of_a_worker_find_each_other(nodes):
    result = build(deployment(backend="sglang", parameters={"tensorParallelSize": 16}), cluster=nodes)

    for each in containers(group(result)):
        at = each["args"].index("--nnodes")
        assert each["args"][at : at + 6] == [
            "--nnodes",
            "$(LWS_GROUP_SIZE)",
            "--node-rank",
            "$(LWS_WORKER_INDEX)",
            "--dist-init-addr",
            "$(LWS_LEADER_ADDRESS):20102",
        ]
    policy = of_kind(result, "NetworkPolicy")["qwen-worker"]
    assert {"podSelector"} in [set(peer) for rule in policy["spec"]["ingress"] for peer in rule["from"]]
    assert len(policy["spec"]["ingress"]) == 2


def test_arguments_of_the_user_come_last(nodes):
    roles = {"agg": {"extraArgs": ["--x", "$(HOME)"]}}
    result = build(deployment(backend="vllm", roles=roles, parameters={"tensorParallelSize": 16}), cluster=nodes)

    assert [each["args"][-2:] for each in containers(group(result))] == [["--x", "$$(HOME)"]] * 2


def test_a_role_may_take_several_nodes_and_the_other_one(nodes):
    roles = {"prefill": {"parameters": {"tensorParallelSize": 8}}, "decode": {}}
    source = deployment(backend="vllm", mode="disagg", roles=roles, parameters={"tensorParallelSize": 16})

    result = build(source, cluster=nodes)

    assert [item["metadata"]["labels"]["tandem.dev/role"] for item in of_kind(result, "LeaderWorkerSet").values()] == [
        "decode"
    ]


def test_without_the_api_it_is_refused_with_the_reason(cluster):
    found = refusal(cluster, backend="vllm", parameters={"tensorParallelSize": 16})

    assert found.startswith("spec.parameters.tensorParallelSize: ")
    assert "takes 16 GPUs, and a node has 8" in found
    assert LEADER_WORKER_SET in found


@pytest.mark.parametrize(
    ("backend", "parameters", "reason"),
    [
        ("trtllm", {"tensorParallelSize": 16}, "MPI launcher"),
        ("vllm", {"tensorParallelSize": 8, "dataParallelSize": 2}, "data parallel copies"),
    ],
)
def test_what_cannot_span_nodes_says_so(nodes, backend, parameters, reason):
    assert reason in refusal(nodes, backend=backend, parameters=parameters)


@pytest.mark.parametrize("length", [1, 20, 63])
def test_pods_of_a_group_have_names_that_are_labels(nodes, length):
    source = deployment(name="a" * length, backend="vllm", parameters={"tensorParallelSize": 16})

    name = group(build(source, cluster=nodes))["metadata"]["name"]

    assert len(f"{name}-9999-9999") <= 63


@pytest.mark.parametrize("backend", ["vllm", "sglang"])
def test_a_port_that_the_server_has_is_refused(cluster, backend):
    found = refusal(cluster, backend=backend, mode="disagg", parameters={"disaggregationBootstrapPort": 8000})

    assert found.startswith("spec.parameters.disaggregationBootstrapPort: ")
    assert "where the server listens" in found


def test_ports_of_data_parallel_copies_count(cluster):
    parameters = {"disaggregationBootstrapPort": 7999, "dataParallelSize": 2}

    assert "would listen on 7999 to 8000" in refusal(cluster, backend="vllm", mode="disagg", parameters=parameters)


def test_a_port_at_which_nodes_meet_is_refused(nodes):
    parameters = {"tensorParallelSize": 16, "disaggregationBootstrapPort": 29501}

    found = refusal(nodes, backend="vllm", mode="disagg", parameters=parameters)

    assert "where what brings the worker's nodes together listens" in found


def test_the_number_of_nodes_is_part_of_the_revision(nodes):
    def revision(size, per_node):
        source = deployment(backend="vllm", parameters={"tensorParallelSize": size})
        return build(source, cluster=replace(nodes, gpus_per_node=per_node)).revision

    assert revision(4, 8) == revision(8, 8), "one node is one node"
    assert len({revision(16, 16), revision(16, 8), revision(16, 4)}) == 3
