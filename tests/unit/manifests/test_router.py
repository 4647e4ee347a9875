"""The router: its command line, its one address, and the little that it may do."""

import pytest

from tandem.manifests import Cluster, build
from tests.unit.manifests.deployments import deployment, of_kind, server


def router(result):
    return of_kind(result, "Deployment")["qwen-router"]


def options(result):
    (container,) = router(result)["spec"]["template"]["spec"]["containers"]
    assert container["command"] == ["tandem"]
    assert container["args"][0] == "router"
    return dict(zip(container["args"][1::2], container["args"][2::2], strict=True))


@pytest.mark.parametrize(("backend", "mode"), [("torch", "disagg"), ("vllm", "agg")])
def test_the_command_line_tells_what_to_watch_and_how_to_speak(cluster, backend, mode):
    spec = {"router": {"policy": "roundRobin"}, "model": {"pvc": {"claimName": "m"}, "servedName": "s"}}

    found = options(build(deployment(backend=backend, mode=mode, **spec), cluster=cluster))

    expected = {"--deployment": "qwen", "--namespace": "ml", "--backend": backend, "--mode": mode}
    assert (
        found.items() >= (expected | {"--policy": "roundRobin", "--served-model-name": "s", "--port": "8000"}).items()
    )


def test_the_command_line_is_one_that_the_router_takes(cluster):
    from tandem.gateway.settings import RouterSettings

    found = options(build(deployment(), cluster=cluster))
    fields = {name.removeprefix("--").replace("-", "_"): value for name, value in found.items()}

    numbers = {name: float(value) for name, value in fields.items() if name.endswith("_seconds")}
    settings = RouterSettings(**(fields | numbers | {"port": int(fields["port"])}))
    assert settings.grace_seconds > settings.drain_seconds


def test_the_router_outlives_its_requests_and_its_workers_answers(cluster):
    result = build(deployment(limits={"timeoutSeconds": 100}), cluster=cluster)

    found = {name: int(value) for name, value in options(result).items() if name.endswith("-seconds")}
    pod = router(result)["spec"]["template"]["spec"]
    assert found["--request-seconds"] > 100
    assert found["--grace-seconds"] >= found["--drain-seconds"] + found["--request-seconds"]
    assert pod["terminationGracePeriodSeconds"] > found["--grace-seconds"]


def test_replicas_resources_and_image(cluster):
    mine = Cluster(library=cluster.library, router_image="mine:1")
    spec = {"router": {"replicas": 3, "resources": {"limits": {"cpu": 1}}}, "imagePullPolicy": "Never"}

    result = build(deployment(**spec), cluster=mine)

    (container,) = router(result)["spec"]["template"]["spec"]["containers"]
    assert router(result)["spec"]["replicas"] == 3
    assert container["image"] == "mine:1"
    assert container["imagePullPolicy"] == "Never"
    assert container["resources"] == {"limits": {"cpu": "1"}}
    assert "qwen-router" in of_kind(result, "PodDisruptionBudget")


def test_probes_do_not_depend_on_workers(cluster):
    (container,) = router(build(deployment(), cluster=cluster))["spec"]["template"]["spec"]["containers"]

    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert container["livenessProbe"]["httpGet"]["path"] == "/livez"


def test_api_keys_are_a_directory_of_the_router_alone_which_changes_with_the_secret(cluster):
    plain = build(deployment(), cluster=cluster)

    result = build(deployment(access={"apiKeysSecretRef": {"name": "clients"}}), cluster=cluster)

    pod = router(result)["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert options(result)["--api-key-file"] == "/etc/tandem/access/api-keys"
    mount = {"name": "api-keys", "mountPath": "/etc/tandem/access", "readOnly": True}
    assert mount in container["volumeMounts"]
    secret = {"secretName": "clients", "items": [{"key": "api-keys", "path": "api-keys"}]}
    assert {"name": "api-keys", "secret": secret} in pod["volumes"]
    others = [item for item in plain.objects if item["metadata"]["name"] != "qwen-router"]
    assert [item for item in result.objects if item["metadata"]["name"] != "qwen-router"] == others
    assert "--api-key-file" not in options(plain)


def test_the_key_of_the_secret_may_have_another_name(cluster):
    access = {"apiKeysSecretRef": {"name": "clients", "key": "mine.txt"}}
    pod = router(build(deployment(access=access), cluster=cluster))["spec"]["template"]["spec"]
    (volume,) = (volume for volume in pod["volumes"] if "secret" in volume)
    assert volume["secret"]["items"] == [{"key": "mine.txt", "path": "api-keys"}]


@pytest.mark.parametrize(("backend", "told"), [("torch", 1), ("vllm", 0)])
def test_the_collector_of_spans_is_named_to_the_router_and_to_workers_that_read_it(cluster, backend, told):
    tracing = {"endpoint": "http://collector:4318/$(HOME)"}
    result = build(deployment(backend=backend, tracing=tracing), cluster=cluster)

    variable = {"name": "OTEL_EXPORTER_OTLP_ENDPOINT", "value": "http://collector:4318/$$(HOME)"}
    (container,) = router(result)["spec"]["template"]["spec"]["containers"]
    assert variable in container["env"]
    assert server(result, "agg")["env"].count(variable) == told
    assert any(warning.startswith("spec.tracing: the router sends spans") for warning in result.warnings) is not bool(
        told
    )
    plain = build(deployment(backend=backend), cluster=cluster)
    assert result.revision == plain.revision
    assert "OTEL" not in str(plain.objects)


def test_one_address_leads_to_the_router(cluster):
    service = of_kind(build(deployment(), cluster=cluster), "Service")["qwen"]

    assert [port["port"] for port in service["spec"]["ports"]] == [8000]
    selector = service["spec"]["selector"]
    assert selector == {"tandem.dev/deployment": "qwen", "app.kubernetes.io/component": "router"}


def test_the_router_may_watch_endpoint_slices_of_its_namespace_and_nothing_else(cluster):
    result = build(deployment(), cluster=cluster)

    (role,) = of_kind(result, "Role").values()
    assert role["rules"] == [
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["get", "list", "watch"]}
    ]
    (binding,) = of_kind(result, "RoleBinding").values()
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    account = binding["subjects"][0]
    assert account == {"kind": "ServiceAccount", "name": "qwen-router", "namespace": "ml"}
    assert router(result)["spec"]["template"]["spec"]["serviceAccountName"] == account["name"]


def selects(selector, labels):
    if not selector.get("matchLabels", {}).items() <= labels.items():
        return False
    return all(item["operator"] == "Exists" and item["key"] in labels for item in selector.get("matchExpressions", []))


@pytest.mark.parametrize(("mode", "peers"), [("agg", False), ("disagg", True)])
def test_who_may_talk_to_whom(cluster, mode, peers):
    result = build(deployment(mode=mode), cluster=cluster)
    policies = of_kind(result, "NetworkPolicy")
    pods = {
        item["spec"]["template"]["metadata"]["labels"].get("tandem.dev/role", "router"): item["spec"]["template"][
            "metadata"
        ]["labels"]
        for item in of_kind(result, "Deployment").values()
    }
    workers = [labels for role, labels in pods.items() if role != "router"]

    spec = policies["qwen-worker"]["spec"]
    assert all(selects(spec["podSelector"], labels) for labels in workers)
    assert not selects(spec["podSelector"], pods["router"])
    assert [rule.get("ports") for rule in spec["ingress"]] == [[{"protocol": "TCP", "port": 8000}], None][: 1 + peers]
    assert selects(spec["ingress"][0]["from"][0]["podSelector"], pods["router"])
    if peers:
        assert all(selects(spec["ingress"][1]["from"][0]["podSelector"], labels) for labels in workers)
    spec = policies["qwen-router"]["spec"]
    assert selects(spec["podSelector"], pods["router"])
    assert spec["ingress"] == [{"ports": [{"protocol": "TCP", "port": 8000}]}]
    assert all(policy["spec"]["policyTypes"] == ["Ingress"] for policy in policies.values())
