"""Worker pods: what they mount, what probes them, how they leave."""

import pytest

from tandem.manifests import build
from tests.unit.manifests.deployments import deployment, of_kind, pod, server, workers

HUB = {"hub": {"repo": "Qwen/Qwen2.5-1.5B", "revision": "v1", "tokenSecretRef": {"name": "hf", "key": "token"}}}


def env(container):
    return {item["name"]: item.get("value", item.get("valueFrom")) for item in container["env"]}


def test_a_volume_is_mounted_read_only_and_the_hub_is_never_asked(cluster):
    result = build(deployment(), cluster=cluster)

    assert {"name": "model", "mountPath": "/models", "readOnly": True} in server(result, "agg")["volumeMounts"]
    claim = {"claimName": "models", "readOnly": True}
    assert {"name": "model", "persistentVolumeClaim": claim} in pod(result, "agg")["volumes"]
    assert env(server(result, "agg"))["HF_HUB_OFFLINE"] == "1"


def test_the_root_of_a_volume_can_be_the_model(cluster):
    result = build(deployment(model={"pvc": {"claimName": "models"}}), cluster=cluster)

    assert server(result, "agg")["args"][:2] == ["--model", "/models"]


@pytest.mark.parametrize("backend", ["torch", "vllm"])
def test_s0_35_a_repository_is_cached_in_a_writable_place_and_its_token_comes_from_the_secret(cluster, backend):
    container = server(build(deployment(model=HUB, backend=backend), cluster=cluster), "agg")

    assert env(container)["HF_HOME"] == "/cache/huggingface"
    assert env(container)["HF_TOKEN"] == {"secretKeyRef": {"name": "hf", "key": "token"}}
    assert {"name": "cache", "mountPath": "/cache"} in container["volumeMounts"]
    arguments = container["args"]
    assert "Qwen/Qwen2.5-1.5B" in arguments
    assert arguments[arguments.index("--revision") + 1] == "v1"


@pytest.mark.parametrize("mode", ["agg", "disagg"])
def test_s1_18_the_token_of_the_hub_is_in_no_argument_and_no_configmap(cluster, mode):
    result = build(deployment(model=HUB, backend="torch", mode=mode), cluster=cluster)

    for item in of_kind(result, "Deployment").values():
        for container in item["spec"]["template"]["spec"]["containers"]:
            assert "HF_TOKEN" not in " ".join([*container.get("command", []), *container.get("args", [])])
    configmaps = of_kind(result, "ConfigMap")
    assert configmaps
    assert "HF_TOKEN" not in str(configmaps)
    assert "Secret" not in {item["kind"] for item in result.objects}


def test_s0_35_secrets_appear_only_when_they_are_named(cluster):
    result = build(deployment(model={"hub": {"repo": "a/b"}}), cluster=cluster)

    assert "HF_TOKEN" not in env(server(result, "agg"))
    assert "imagePullSecrets" not in pod(result, "agg")
    named = build(deployment(imagePullSecrets=[{"name": "reg"}]), cluster=cluster)
    assert pod(named, "agg")["imagePullSecrets"] == [{"name": "reg"}]


@pytest.mark.parametrize("backend", ["torch", "vllm"])
@pytest.mark.parametrize("mode", ["agg", "disagg"])
def test_pods_meet_the_restricted_standard(cluster, backend, mode):
    result = build(deployment(backend=backend, mode=mode, model=HUB), cluster=cluster)

    for item in of_kind(result, "Deployment").values():
        spec = item["spec"]["template"]["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
        for volume in spec["volumes"]:
            assert set(volume) - {"name"} <= {"emptyDir", "configMap", "persistentVolumeClaim", "secret"}
        for container in spec["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
                "readOnlyRootFilesystem": True,
            }
            assert container["terminationMessagePolicy"] == "FallbackToLogsOnError"
            assert {"name": "tmp", "mountPath": "/tmp"} in container["volumeMounts"]


def test_workers_hold_no_token(cluster):
    result = build(deployment(), cluster=cluster)

    assert pod(result, "agg")["automountServiceAccountToken"] is False
    assert of_kind(result, "ServiceAccount")["qwen-worker"]["automountServiceAccountToken"] is False
    assert pod(result, "agg")["serviceAccountName"] == "qwen-worker"


@pytest.mark.parametrize(("backend", "liveness", "hours"), [("torch", "/livez", 48), ("vllm", "/health", 3)])
def test_s1_3_probes_ask_for_health_and_never_kill_a_slow_load(cluster, backend, liveness, hours):
    container = server(build(deployment(backend=backend), cluster=cluster), "agg")

    startup, readiness = container["startupProbe"], container["readinessProbe"]
    assert startup["httpGet"] == readiness["httpGet"] == {"path": "/health", "port": "http"}
    assert container["livenessProbe"]["httpGet"]["path"] == liveness
    assert startup["failureThreshold"] * startup["periodSeconds"] == hours * 3600
    assert readiness["periodSeconds"] == 2


def test_the_deployment_does_not_give_up_before_its_pods(cluster):
    found = workers(build(deployment(), cluster=cluster), "agg")["spec"]

    assert found["progressDeadlineSeconds"] > 48 * 3600


@pytest.mark.parametrize(
    ("spec", "seconds"), [({}, 60), ({"limits": {"timeoutSeconds": 300}}, 300), ({"backend": "vllm"}, 600)]
)
def test_a_worker_that_goes_away_first_leaves_the_endpoints_then_finishes_its_requests(cluster, spec, seconds):
    result = build(deployment(**spec), cluster=cluster)

    assert server(result, "agg")["lifecycle"] == {"preStop": {"sleep": {"seconds": 5}}}
    assert pod(result, "agg")["terminationGracePeriodSeconds"] == 5 + seconds + 10


def test_a_rolling_edit_never_goes_below_the_declared_number(cluster):
    strategy = workers(build(deployment(rollout={"maxSurge": 3}), cluster=cluster), "agg")["spec"]["strategy"]

    assert strategy == {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 3}}


def test_s0_32_a_changed_file_has_another_name_and_so_rolls_the_pods(cluster):
    first = build(deployment(), cluster=cluster)
    second = build(deployment(limits={"maxQueue": 3}), cluster=cluster)

    for result in (first, second):
        ((name, config),) = of_kind(result, "ConfigMap").items()
        assert config["immutable"] is True
        assert {"name": "config", "configMap": {"name": name}} in pod(result, "agg")["volumes"]
    assert set(of_kind(first, "ConfigMap")) != set(of_kind(second, "ConfigMap"))
    assert first.revision == second.revision


def test_only_the_edited_role_changes(cluster):
    def templates(**decode):
        result = build(deployment(mode="disagg", roles={"prefill": {}, "decode": decode}), cluster=cluster)
        return [workers(result, role)["spec"]["template"] for role in ("prefill", "decode")]

    before, after = templates(), templates(parameters={"maxBatchSize": 5})

    assert before[0] == after[0]
    assert before[1] != after[1]


def test_the_headless_service_carries_role_and_revision(cluster):
    result = build(deployment(mode="disagg"), cluster=cluster)

    service = of_kind(result, "Service")[f"qwen-prefill-{result.revision}"]
    assert service["spec"]["clusterIP"] == "None"
    assert service["metadata"]["labels"] == workers(result, "prefill")["spec"]["template"]["metadata"]["labels"]
    selected = service["spec"]["selector"].items()
    assert selected <= service["metadata"]["labels"].items()
    assert workers(result, "prefill")["spec"]["selector"]["matchLabels"] == dict(selected)


def test_vllm_tells_its_pods_address_to_its_peers(cluster):
    container = server(build(deployment(backend="vllm", mode="disagg"), cluster=cluster), "prefill")

    names = [item["name"] for item in container["env"]]
    assert names.index("POD_IP") < names.index("VLLM_NIXL_SIDE_CHANNEL_HOST")
    assert env(container)["POD_IP"] == {"fieldRef": {"fieldPath": "status.podIP"}}
    assert env(container)["VLLM_NIXL_SIDE_CHANNEL_HOST"] == "$(POD_IP)"
    assert env(container)["VLLM_NIXL_SIDE_CHANNEL_PORT"] == "5600"


@pytest.mark.parametrize(("backend", "ports"), [("torch", [8000]), ("vllm", [8000, 5600]), ("sglang", [8000, 8998])])
def test_every_port_that_a_worker_listens_on_is_declared(cluster, backend, ports):
    built = build(deployment(backend=backend, mode="disagg", roles={"prefill": {}, "decode": {}}), cluster=cluster)
    assert [port["containerPort"] for port in server(built, "prefill")["ports"]] == ports


def test_a_parameter_that_is_a_variable_replaces_the_default(cluster):
    spec = {"backend": "vllm", "mode": "disagg", "parameters": {"disaggregationBootstrapPort": 5700}}

    container = server(build(deployment(**spec), cluster=cluster), "decode")

    assert [item for item in container["env"] if item["name"] == "VLLM_NIXL_SIDE_CHANNEL_PORT"] == [
        {"name": "VLLM_NIXL_SIDE_CHANNEL_PORT", "value": "5700"}
    ]


def test_an_aggregated_vllm_has_nothing_of_disaggregation(cluster):
    container = server(build(deployment(backend="vllm"), cluster=cluster), "agg")

    assert not [name for name in env(container) if "NIXL" in name or name == "POD_IP"]
    assert "--kv-transfer-config" not in container["args"]


SIZES = {"tensorParallelSize": 2, "pipelineParallelSize": 2, "dataParallelSize": 2}


@pytest.mark.parametrize(
    ("spec", "resources", "expected"),
    [
        ({"backend": "vllm"}, None, {"limits": {"nvidia.com/gpu": "1"}}),
        ({"backend": "vllm", "parameters": SIZES}, None, {"limits": {"nvidia.com/gpu": "8"}}),
        (
            {"backend": "vllm"},
            {"requests": {"cpu": 2}, "limits": {"memory": "8Gi"}},
            {"requests": {"cpu": "2"}, "limits": {"memory": "8Gi", "nvidia.com/gpu": "1"}},
        ),
        ({"backend": "vllm"}, {"limits": {"amd.com/gpu": 1}}, {"limits": {"amd.com/gpu": "1"}}),
        ({"backend": "vllm"}, {"limits": {"rdma/ib": 1}}, {"limits": {"rdma/ib": "1", "nvidia.com/gpu": "1"}}),
        ({"backend": "vllm"}, {"limits": {"nvidia.com/gpu": 0}}, {"limits": {"nvidia.com/gpu": "0"}}),
        ({}, {"limits": {"cpu": 2}}, {"limits": {"cpu": "2"}}),
        ({}, None, None),
    ],
)
def test_s0_37_a_worker_asks_for_the_gpus_that_its_parallel_sizes_need(cluster, spec, resources, expected):
    result = build(deployment(**spec, roles={"agg": {"resources": resources} if resources else {}}), cluster=cluster)

    assert server(result, "agg").get("resources") == expected


def test_a_budget_exists_only_for_several_workers(cluster):
    result = build(deployment(mode="disagg", roles={"prefill": {"replicas": 2}, "decode": {}}), cluster=cluster)

    (budget,) = of_kind(result, "PodDisruptionBudget").values()
    assert budget["metadata"]["name"] == "qwen-prefill"
    assert budget["spec"]["maxUnavailable"] == 1
    assert budget["spec"]["selector"]["matchLabels"] == {"tandem.dev/deployment": "qwen", "tandem.dev/role": "prefill"}


@pytest.mark.parametrize(("given", "told"), [("1", 1), ("4", 0), ("0", 0)])
def test_fewer_accelerators_than_the_parallel_sizes_need_are_told(cluster, given, told):
    resources = {"limits": {"nvidia.com/gpu": given}}
    spec = {"backend": "vllm", "parameters": {"tensorParallelSize": 4}, "roles": {"agg": {"resources": resources}}}
    warnings = [text for text in build(deployment(**spec), cluster=cluster).warnings if "nvidia.com/gpu" in text]
    assert len(warnings) == told
    assert all("need 4" in text for text in warnings)
