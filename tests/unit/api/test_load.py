"""From text to resources: every mistake is located and says what to do."""

from pathlib import Path

import pytest

from tandem.api.load import load_deployment, load_file, parse_resource
from tandem.api.problems import Refused

GOOD = """\
apiVersion: tandem.dev/v1alpha1
kind: ModelDeployment
metadata: {name: qwen}
spec:
  model: {pvc: {claimName: models, path: qwen}}
"""


def refusal(tmp_path: Path, text: str | bytes) -> str:
    path = tmp_path / "d.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(Refused) as refused:
        load_file(path)
    return str(refused.value).replace(str(tmp_path), "")


def test_a_good_file_becomes_a_deployment(tmp_path):
    (tmp_path / "d.yaml").write_text(GOOD)

    deployment = load_deployment(tmp_path / "d.yaml")

    assert deployment.served_name == "qwen"
    assert deployment.role_names() == ("agg",)
    assert deployment.replicas("agg") == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: [1", "/d.yaml:2:1: malformed YAML"),
        ("a: 1\n\tb: 2", "/d.yaml:2:1: malformed YAML"),
        ("", "/d.yaml: the file holds no resource"),
        ("- 1", "/d.yaml:1: .: a resource is a mapping"),
        (GOOD.replace("ModelDeployment", "Deployment"), "kind: this kind is not one of Tandem's (got 'Deployment')"),
        (GOOD.replace("v1alpha1", "v9"), "apiVersion: unknown API version (got 'tandem.dev/v9')"),
        (GOOD.replace("claimName", "claimNmae"), "spec.model.pvc.claimNmae: unknown field (got 'models')"),
        (GOOD + "  backend: tensorrt\n", "spec.backend: Input should be 'torch', 'vllm', 'sglang' or 'trtllm'"),
        (GOOD + "  replicas: '2'\n", "spec.replicas: Input should be a valid integer (got '2')"),
        (GOOD + "  parameters: {maxBatchSize: 0}\n", "spec.parameters.maxBatchSize: Input should be greater than"),
        (GOOD + "  mode: disagg\n", "spec: mode disagg needs roles.prefill and roles.decode"),
        (GOOD + "  roles: {prefill: {}}\n", "spec: mode agg has one role, agg"),
        (GOOD + "  sla: {isl: .nan}\n", "a value has no JSON form"),
        (b"\xff\xfe\x00", "cannot be read"),
    ],
)
def test_a_mistake_is_located(tmp_path, text, expected):
    assert expected in refusal(tmp_path, text)


def test_a_misspelt_parameter_gets_the_near_name(tmp_path):
    message = refusal(tmp_path, GOOD + "  parameters: {maxBatchSzie: 3}\n")

    assert message == "/d.yaml:1: spec.parameters.maxBatchSzie: unknown field (got 3). Did you mean maxBatchSize?"


def test_all_mistakes_are_told_at_once(tmp_path):
    message = refusal(tmp_path, GOOD + "  backend: x\n  mode: y\n  replicas: -1\n")

    assert len(message.splitlines()) == 3


def test_the_second_document_is_located_by_its_line(tmp_path):
    message = refusal(tmp_path, GOOD + "---\n" + GOOD + "  x: 1\n")

    assert message.startswith("/d.yaml:7: spec.x: unknown field")


def test_a_missing_file_says_so(tmp_path):
    with pytest.raises(Refused, match="the file does not exist"):
        load_file(tmp_path / "none.yaml")


def test_an_inline_token_is_refused_without_being_shown():
    document = {
        "apiVersion": "tandem.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": "q"},
        "spec": {"model": {"hub": {"repo": "a/b", "token": "hf_hunter2"}}},
    }
    with pytest.raises(Refused) as refused:
        parse_resource(document)

    assert "tokenSecretRef" in str(refused.value)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("argument", ["--hf-token=x", "--api-key", "-token=x", "--password=x"])
def test_an_argument_that_carries_a_secret_is_refused(argument):
    document = {
        "apiVersion": "tandem.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": "q"},
        "spec": {"model": {"pvc": {"claimName": "m"}}, "roles": {"agg": {"extraArgs": [argument]}}},
    }
    with pytest.raises(Refused, match="extraArgs must not carry a secret"):
        parse_resource(document)


def test_spec_replicas_wins_for_the_generating_role_only():
    document = {
        "apiVersion": "tandem.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": "q"},
        "spec": {
            "model": {"pvc": {"claimName": "m"}},
            "mode": "disagg",
            "replicas": 5,
            "roles": {"prefill": {"replicas": 2}, "decode": {"replicas": 3}},
        },
    }
    deployment = parse_resource(document)

    assert (deployment.replicas("prefill"), deployment.replicas("decode")) == (2, 5)
