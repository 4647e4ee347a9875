"""`tandem diff` against a real API server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from tandem.cli.app import run

pytestmark = pytest.mark.integration
ROOT = Path(__file__).parents[3]


@pytest.fixture
def applied(control_plane, namespace, tmp_path, capsys):
    """A deployment's file, with all that it stands for in the cluster."""
    kubectl = control_plane.kubectl
    kubectl("apply", "--server-side", "-f", str(ROOT / "crds"))
    for name in ("modeldeployments", "modelblueprints", "modeljobs", "modelroutes"):
        kubectl("wait", "--for=condition=Established", f"crd/{name}.tandem.dev", "--timeout=60s")
    example = (ROOT / "docs" / "examples" / "torch-disagg.yaml").read_text()
    file = tmp_path / "deployment.yaml"
    file.write_text(example.replace("metadata:\n", f"metadata:\n  namespace: {namespace}\n"))
    assert run(["render", "-f", str(file)]) == 0
    objects = capsys.readouterr().out
    kubectl("apply", "--server-side", "--field-manager=tandem", "-f", "-", input=objects)
    kubectl("apply", "-f", str(file))
    return file


@pytest.fixture
def diff(control_plane, capsys):
    def compare(file: Path, *arguments: str) -> tuple[int, str]:
        code = run(["diff", "-f", str(file), "--kubeconfig", str(control_plane.kubeconfig), *arguments])
        return code, capsys.readouterr().out

    return compare


def test_nothing_differs_after_what_was_rendered_has_been_applied(applied, diff):
    assert diff(applied) == (0, "")


def test_images_of_the_clusters_operator_are_no_difference(diff, control_plane, namespace, tmp_path, capsys):
    file = tmp_path / "deployment.yaml"
    example = (ROOT / "docs" / "examples" / "torch-agg.yaml").read_text()
    file.write_text(example.replace("metadata:\n", f"metadata:\n  namespace: {namespace}\n"))
    images = ["--router-image", "reg.example/operator:9", "--worker-image", "torch=reg.example/server:9"]
    assert run(["render", "-f", str(file), *images]) == 0
    objects = capsys.readouterr().out
    control_plane.kubectl("apply", "-f", str(file))
    control_plane.kubectl("apply", "--server-side", "--field-manager=tandem", "-f", "-", input=objects)
    assert diff(file) == (0, "")
    code, text = diff(file, "--worker-image", "torch=reg.example/server:10")
    assert code == 1
    assert "+ Deployment" in text


def test_a_changed_value_a_missing_object_and_a_left_over_are_told(applied, diff, control_plane, namespace):
    applied.write_text(applied.read_text().replace("maxBatchSize: 16", "maxBatchSize: 4"))
    control_plane.kubectl("delete", "service", "qwen", "-n", namespace)
    control_plane.kubectl("create", "configmap", "old", "-n", namespace)
    control_plane.kubectl("label", "configmap", "old", "-n", namespace, "tandem.dev/deployment=qwen")
    code, text = diff(applied)
    assert code == 1
    lines = text.splitlines()
    assert f"~ ModelDeployment {namespace}/qwen: spec.roles.decode.parameters.maxBatchSize" in lines
    assert any(line.startswith(f"~ Deployment {namespace}/qwen-decode-") and ".args" in line for line in lines)
    assert f"+ Service {namespace}/qwen: is missing" in lines
    assert f"- ConfigMap {namespace}/old: is not wanted" in lines
    assert not any("prefill" in line for line in lines)


def test_a_deployment_that_is_not_there_is_missing_with_all_its_objects(applied, diff, namespace):
    applied.write_text(applied.read_text().replace("name: qwen", "name: another"))
    code, text = diff(applied, "-o", "json")
    assert code == 1
    found = json.loads(text)
    assert {each["change"] for each in found} == {"missing"}
    assert {"kind": "ModelDeployment", "name": "another"}.items() <= found[0].items()
    assert {each["namespace"] for each in found} == {namespace}


def test_rules_come_from_the_config_map_that_the_deployment_names(applied, diff, control_plane, namespace):
    rule = "decode max_batch_size = 3"
    control_plane.kubectl("create", "configmap", "mine", "-n", namespace, f"--from-literal=torch.rule={rule}")
    text = applied.read_text().replace("parameters: {maxBatchSize: 16}", "parameters: {}")
    applied.write_text(text + "  rules: {configMapRef: {name: mine}}\n")
    code, told = diff(applied)
    assert code == 1
    assert "qwen-decode-" in told


def test_an_api_server_that_cannot_be_asked_exits_2(applied, control_plane, tmp_path, capsys):
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(control_plane.kubeconfig.read_text().replace(control_plane.url, "https://127.0.0.1:1"))
    assert run(["diff", "-f", str(applied), "--kubeconfig", str(kubeconfig)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: https://127.0.0.1:1: it cannot be reached: ")


def test_a_token_that_is_not_known_exits_2(applied, control_plane, tmp_path, capsys):
    document = yaml.safe_load(control_plane.kubeconfig.read_text())
    document["users"][0]["user"] = {"token": "hunter2"}
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(yaml.safe_dump(document))
    assert run(["diff", "-f", str(applied), "--kubeconfig", str(kubeconfig)]) == 2
    said = capsys.readouterr().err
    assert "the API server does not accept these credentials" in said
    assert "hunter2" not in said


def test_a_config_map_that_is_not_there_is_located_in_the_file(applied, control_plane, capsys):
    applied.write_text(applied.read_text() + "  rules: {configMapRef: {name: none}}\n")
    line = len(applied.read_text().splitlines())
    assert run(["diff", "-f", str(applied), "--kubeconfig", str(control_plane.kubeconfig)]) == 1
    told = f"error: {applied}:{line}:32: spec.rules.configMapRef.name: there is no such ConfigMap"
    assert capsys.readouterr().err.startswith(told)
