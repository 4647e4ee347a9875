"""The CRDs on a real API server: accepted, documented, and of one mind with the pydantic models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from kubernetes import client, config

from tandem.api.crd import KINDS, crd_texts
from tandem.api.load import parse_resource
from tandem.api.problems import Refused
from tests.integration.api.strategies import changed, documents, faults

pytestmark = pytest.mark.integration

SOURCE = {"pvc": {"claimName": "models"}}
SCHEMAS = {
    document["spec"]["names"]["kind"]: document["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"][
        "spec"
    ]
    for document in map(yaml.safe_load, crd_texts().values())
}
PLURALS = {kind.name: kind.plural for kind in KINDS}
relaxed = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.filter_too_much],
)


@pytest.fixture(scope="module")
def server(control_plane, tmp_path_factory) -> client.CustomObjectsApi:
    directory: Path = tmp_path_factory.mktemp("crds")
    for name, text in crd_texts().items():
        (directory / name).write_text(text)
    control_plane.kubectl("apply", "-f", str(directory))
    control_plane.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
    return client.CustomObjectsApi(config.new_client_from_config(str(control_plane.kubeconfig)))


def resource(kind: str, spec: Any) -> dict[str, Any]:
    return {"apiVersion": "tandem.dev/v1alpha1", "kind": kind, "metadata": {"name": "x"}, "spec": spec}


def refusal_of_server(server: client.CustomObjectsApi, document: dict[str, Any]) -> str | None:
    """What the API server says against `document`, or None when it takes it."""
    try:
        server.create_namespaced_custom_object(
            "tandem.dev",
            "v1alpha1",
            "default",
            PLURALS[document["kind"]],
            document,
            dry_run="All",
            field_validation="Strict",
            # Its own default is to wait without end.
            _request_timeout=60,
        )
    except client.ApiException as error:
        if error.status not in (400, 422):
            raise
        return str(json.loads(error.body)["message"])
    return None


def accepted_by_model(document: dict[str, Any]) -> bool:
    try:
        parse_resource(document)
    except Refused:
        return False
    return True


def test_crds_are_accepted_by_server_side_apply_too(control_plane, server, tmp_path):
    for name, text in crd_texts().items():
        (tmp_path / name).write_text(text)

    done = control_plane.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(tmp_path))

    assert done.stdout.count("serverside-applied") == 4


def test_kubectl_explains_each_parameter(control_plane, server):
    text = control_plane.kubectl("explain", "modeldeployment.spec.parameters.maxBatchSize").stdout

    assert "Sequences that run at the same time in one worker." in text


def test_short_names_and_printer_columns(control_plane, server, namespace):
    spec = {"model": SOURCE, "backend": "vllm", "mode": "disagg", "roles": {"prefill": {}, "decode": {}}}
    control_plane.kubectl("apply", "-n", namespace, "-f", "-", input=json.dumps(resource("ModelDeployment", spec)))

    shown = control_plane.kubectl("get", "md", "-n", namespace).stdout.split()

    assert shown[:6] == ["NAME", "BACKEND", "MODE", "READY", "REASON", "AGE"]
    assert shown[6:9] == ["x", "vllm", "disagg"]


def test_scale_sets_the_generating_roles_replicas(control_plane, server, namespace):
    document = resource("ModelDeployment", {"model": SOURCE, "replicas": 1})
    control_plane.kubectl("apply", "-n", namespace, "-f", "-", input=json.dumps(document))

    control_plane.kubectl("scale", "md/x", "--replicas=3", "-n", namespace)

    assert control_plane.get("md", "x", "-n", namespace)["spec"]["replicas"] == 3


@pytest.mark.parametrize(
    ("kind", "spec", "expected"),
    [
        ("ModelDeployment", {"model": {}}, "give exactly one of blueprintRef, hub, pvc or jobRef"),
        ("ModelDeployment", {"model": {**SOURCE, "jobRef": {"name": "j"}}}, "a model has exactly one source"),
        ("ModelDeployment", {"model": SOURCE, "mode": "agg", "roles": {"prefill": {}}}, "remove roles.prefill"),
        ("ModelDeployment", {"model": SOURCE, "mode": "disagg", "roles": {"prefill": {}}}, "needs roles.prefill and"),
        ("ModelDeployment", {"model": SOURCE, "mode": "disagg"}, "needs roles.prefill and roles.decode"),
        (
            "ModelDeployment",
            {"model": SOURCE, "parameters": {"maxBatchSzie": 3}},
            'unknown field "spec.parameters.maxBatchSzie"',
        ),
        ("ModelDeployment", {"model": SOURCE, "parameters": {"tensorParallelSize": -3}}, "greater than or equal to 1"),
        ("ModelDeployment", {"model": {"hub": {"repo": "a/b", "token": "t"}}}, "put it in a Secret and name it in"),
        (
            "ModelDeployment",
            {"model": SOURCE, "roles": {"agg": {"extraArgs": ["--api-key=t"]}}},
            "extraArgs must not carry a secret",
        ),
        (
            "ModelDeployment",
            {"model": SOURCE, "access": {"apiKeys": "k"}},
            "put the keys in a Secret, one per line, and",
        ),
        ("ModelDeployment", {"model": SOURCE, "access": {}}, "access names no keys, so nobody would be kept out"),
        ("ModelDeployment", {"model": SOURCE, "access": {"apiKeysSecretRef": {"key": "k"}}}, "apiKeysSecretRef.name"),
        (
            "ModelRoute",
            {"virtualModel": "m", "chain": [{"name": "a", "openai": {"baseUrl": "https://x/v1", "apiKey": "t"}}]},
            "put it in a Secret and name it in secretRef",
        ),
        (
            "ModelDeployment",
            {"model": SOURCE, "roles": {"agg": {"resources": {"requests": {"cpu": "lots"}}}}},
            "spec.roles.agg.resources.requests.cpu",
        ),
        (
            "ModelDeployment",
            {"model": SOURCE, "roles": {"agg": {"resources": {"limits": {"memory": 8}}}}},
            "a number without a unit is bytes: add a unit, as in 8Gi",
        ),
        (
            "ModelDeployment",
            {"model": SOURCE, "router": {"resources": {"limits": {"cpu": "100m"}, "requests": {"cpu": 1}}}},
            "a request must not be above its limit",
        ),
        (
            "ModelDeployment",
            {"model": SOURCE, "parameters": {"maxSeqLen": 256}, "limits": {"maxPromptTokens": 2048}},
            "maxPromptTokens must be below maxSeqLen",
        ),
        ("ModelBlueprint", {}, "give exactly one of from or design"),
    ],
)
def test_the_api_server_itself_refuses_and_says_what_to_do(server, kind, spec, expected):
    document = resource(kind, spec)

    assert expected in (refusal_of_server(server, document) or "accepted")
    assert not accepted_by_model(document)


def test_the_key_of_api_keys_has_a_default(control_plane, server, namespace):
    spec = {"model": SOURCE, "access": {"apiKeysSecretRef": {"name": "clients"}}}
    control_plane.kubectl("apply", "-n", namespace, "-f", "-", input=json.dumps(resource("ModelDeployment", spec)))

    access = control_plane.get("md", "x", "-n", namespace)["spec"]["access"]
    assert access == {"apiKeysSecretRef": {"name": "clients", "key": "api-keys"}}


def test_inline_keys_are_not_in_the_refusal(server):
    for access in ({"apiKeys": "hunter2"}, {"apiKeys": ["hunter2"]}, {"apiKeysSecretRef": "hunter2"}):
        refusal = refusal_of_server(server, resource("ModelDeployment", {"model": SOURCE, "access": access}))
        assert refusal is not None
        assert "hunter2" not in refusal


def test_a_changed_blueprint_is_refused(control_plane, server, namespace):
    first = json.dumps(resource("ModelBlueprint", {"from": {"inline": "{}"}}))
    second = json.dumps(resource("ModelBlueprint", {"from": {"inline": '{"a": 1}'}}))
    control_plane.kubectl("apply", "-n", namespace, "-f", "-", input=first)

    done = control_plane.kubectl("apply", "-n", namespace, "-f", "-", input=second, check=False)

    assert done.returncode == 1
    assert "a blueprint is immutable: create a new ModelBlueprint" in done.stderr


VALID = {
    "ModelDeployment": {
        "model": {"hub": {"repo": "a/b", "revision": "main", "tokenSecretRef": {"name": "hf", "key": "token"}}},
        "backend": "vllm",
        "backendVersion": "0.33.0",
        "mode": "disagg",
        "replicas": 2,
        "parameters": {"maxSeqLen": 4096, "kvCacheDtype": "auto", "kvCacheFreeGpuMemoryFraction": 0.9},
        "roles": {
            "prefill": {"replicas": 1, "extraArgs": ["--x"], "resources": {"limits": {"cpu": "1"}}},
            "decode": {"parameters": {"cudaGraphBatchSizes": [1, 2], "trustRemoteCode": True, "moeBackend": "triton"}},
        },
        "sla": {"isl": 10, "ttftMs": 1.5},
        "limits": {"maxNewTokens": 10, "onOverlong": "reject"},
        "rules": {"set": "benchmark", "configMapRef": {"name": "r"}},
        "templates": {"configMapRef": {"name": "t"}},
        "router": {"replicas": 1, "policy": "roundRobin"},
        "access": {"apiKeysSecretRef": {"name": "clients", "key": "keys"}},
        "tracing": {"endpoint": "http://collector:4318"},
        "rollout": {"maxSurge": 2},
    },
    "ModelBlueprint": {"from": {"configMapRef": {"name": "c", "key": "config.json"}}, "budget": {"maxParams": 5}},
    "ModelJob": {"steps": [{"name": "get", "download": {"hub": {"repo": "a/b"}}}], "output": {"claimName": "c"}},
    "ModelRoute": {
        "virtualModel": "m",
        "chain": [{"name": "a", "deploymentRef": {"name": "d"}}],
        "retry": {"maxAttempts": 2},
        "constraints": {"privacy": "localOnly"},
    },
}


@pytest.mark.parametrize("kind", sorted(SCHEMAS))
def test_what_the_model_accepts_the_api_server_accepts(server, kind):
    counted = {"accepted": 0}

    @relaxed
    @example(spec=VALID[kind])
    @given(spec=documents(SCHEMAS[kind]) | changed(VALID[kind], SCHEMAS[kind]))
    def check(spec):
        document = resource(kind, spec)
        if accepted_by_model(document):
            counted["accepted"] += 1
            assert refusal_of_server(server, document) is None

    check()
    assert counted["accepted"] > 5


@pytest.mark.parametrize("kind", sorted(SCHEMAS))
def test_a_single_fault_is_refused_by_both(server, kind):
    document = resource(kind, VALID[kind])
    assert accepted_by_model(document)
    assert refusal_of_server(server, document) is None
    spoilt = list(faults(VALID[kind], SCHEMAS[kind]))
    assert len(spoilt) > 10

    taken = [
        what
        for what, spec in spoilt
        if accepted_by_model(resource(kind, spec)) or refusal_of_server(server, resource(kind, spec)) is None
    ]

    assert taken == []


@relaxed
@given(data=st.data())
def test_generated_deployments_with_a_fault_are_refused_by_both(server, data):
    spec = data.draw(
        documents(SCHEMAS["ModelDeployment"]).filter(lambda s: accepted_by_model(resource("ModelDeployment", s)))
    )
    what, bad = data.draw(st.sampled_from(list(faults(spec, SCHEMAS["ModelDeployment"]))))
    document = resource("ModelDeployment", bad)

    assert not accepted_by_model(document), what
    assert refusal_of_server(server, document) is not None, what
