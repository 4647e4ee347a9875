"""render, explain and validate: what they print and how they refuse."""

import json
from pathlib import Path

import pytest
import yaml

from tandem.api.load import load_deployment
from tandem.cli.app import run
from tandem.manifests import Cluster, build
from tandem.manifests.yaml_out import to_yaml
from tandem.rendering.library import load_library

EXAMPLES = Path(__file__).parents[3] / "docs" / "examples"
DISAGG = EXAMPLES / "demo-disagg.yaml"

MANY = """
apiVersion: tandem.dev/v1alpha1
kind: ModelDeployment
metadata: {{name: one}}
spec: {{model: {{pvc: {{claimName: m}}}}}}
---
apiVersion: tandem.dev/v1alpha1
kind: {kind}
metadata: {{name: two}}
spec: {spec}
"""


def test_render_prints_what_build_makes(capsys):
    assert run(["render", "-f", str(DISAGG)]) == 0
    built = build(load_deployment(DISAGG), cluster=Cluster(library=load_library()))
    assert capsys.readouterr().out == to_yaml(built)


def test_render_into_a_directory_writes_one_object_a_file_in_order(tmp_path, capsys):
    out = tmp_path / "a" / "b"
    assert run(["render", "-f", str(DISAGG), "-o", str(out)]) == 0
    built = build(load_deployment(DISAGG), cluster=Cluster(library=load_library()))
    files = sorted(out.iterdir())
    assert [yaml.safe_load(file.read_text()) for file in files] == list(built.objects)
    assert capsys.readouterr().out.split() == [str(file) for file in files]


def test_render_into_a_place_that_cannot_be_written_is_refused(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert run(["render", "-f", str(DISAGG), "-o", str(tmp_path / "file" / "x")]) == 1
    assert "cannot be written" in capsys.readouterr().err


def test_render_uses_the_images_it_is_given(capsys):
    run(["render", "-f", str(DISAGG), "--router-image", "r:1", "--worker-image", "torch=w:2"])
    objects = yaml.safe_load_all(capsys.readouterr().out)
    images = {
        container["image"]
        for found in objects
        if found["kind"] == "Deployment"
        for container in found["spec"]["template"]["spec"]["containers"]
    }
    assert images == {"r:1", "w:2"}


def test_rules_of_a_config_map_come_from_a_directory(tmp_path, capsys):
    file = tmp_path / "d.yaml"
    file.write_text(DISAGG.read_text().replace("  limits:", "  rules: {configMapRef: {name: mine}}\n  limits:"))
    rules = tmp_path / "rules"
    rules.mkdir()
    (rules / "torch.rule").write_text("decode max_batch_size = 3\n")
    assert run(["explain", "-f", str(file), "--rules", str(rules), "maxBatchSize", "-o", "json"]) == 0
    (document,) = json.loads(capsys.readouterr().out)
    decode = next(value for value in document["parameters"] if value["role"] == "decode")
    assert (decode["value"], decode["source"]) == (3, "rule")
    assert "torch.rule:1" in decode["detail"]
    assert run(["render", "-f", str(file), "--rules", str(tmp_path / "no")]) == 1
    assert "--rules" in capsys.readouterr().err


def test_explain_shows_each_value_with_source_and_arguments(capsys):
    assert run(["explain", "-f", str(DISAGG)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["DEPLOYMENT", "ROLE", "PARAMETER", "VALUE", "SOURCE", "FROM", "ARGUMENTS"]
    row = next(line for line in lines if "decode" in line and "maxSeqLen" in line)
    assert row.split() == [
        *("demo", "decode", "maxSeqLen", "512", "parameters", "spec.parameters.maxSeqLen", "--max-model-len", "512")
    ]


@pytest.mark.parametrize("name", ["maxSeqLen", "max_seq_len"])
def test_explain_takes_a_parameter_under_both_its_names(name, capsys):
    assert run(["explain", "-f", str(DISAGG), name, "-o", "yaml"]) == 0
    (document,) = yaml.safe_load(capsys.readouterr().out)
    assert {value["name"] for value in document["parameters"]} == {"maxSeqLen"}


def test_explain_says_that_a_parameter_is_not_set(capsys):
    assert run(["explain", "-f", str(DISAGG), "moeBackend"]) == 0
    assert "moeBackend is not set" in capsys.readouterr().out


def test_explain_refuses_an_unknown_parameter_with_the_nearest(capsys):
    assert run(["explain", "-f", str(DISAGG), "maxSecLen"]) == 1
    assert "Did you mean maxSeqLen" in capsys.readouterr().err


def test_validate_prints_what_was_checked(tmp_path, capsys):
    file = tmp_path / "f.yaml"
    file.write_text(
        MANY.format(kind="ModelJob", spec="{steps: [{name: a, download: {hub: {repo: x/y}}}], output: {claimName: o}}")
    )
    assert run(["validate", "-f", str(file)]) == 0
    one, two = capsys.readouterr().out.splitlines()
    assert one.startswith(f"{file}: ModelDeployment one: ok (fields, ")
    assert two == f"{file}: ModelJob two: ok (fields)"


def test_validate_goes_on_after_a_deployment_that_cannot_be_built(tmp_path, capsys):
    file = tmp_path / "f.yaml"
    file.write_text(MANY.format(kind="ModelDeployment", spec="{model: {pvc: {claimName: m}}, backendVersion: '0'}"))
    assert run(["validate", "-f", str(file), "-o", "json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["valid"] is False
    assert [each["name"] for each in document["checked"]] == ["one"]
    (problem,) = document["problems"]
    assert problem["path"] == f"{file}: ModelDeployment two: spec.backendVersion"
    assert problem["reason"]
    assert problem["fix"]


def test_s2_24_validate_exits_1_with_path_and_reason(tmp_path, capsys):
    file = tmp_path / "f.yaml"
    file.write_text(DISAGG.read_text().replace("replicas: 1", "replicas: -1", 1))
    assert run(["validate", "-f", str(file)]) == 1
    output = capsys.readouterr()
    assert "spec.roles.prefill.replicas" in output.err
    assert "greater than or equal to 0" in output.err
    assert output.out == ""
