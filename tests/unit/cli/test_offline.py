"""render, explain and validate: what they print and how they refuse."""

import json
from pathlib import Path

import pytest
import yaml

from tandem.api.load import load_deployment
from tandem.cli.app import run
from tandem.generator.reference import aligned
from tandem.manifests import Cluster, build
from tandem.manifests.yaml_out import to_yaml
from tandem.rendering.library import load_library

EXAMPLES = Path(__file__).parents[3] / "docs" / "examples"
DISAGG = EXAMPLES / "demo-disagg.yaml"

ONE = """\
apiVersion: tandem.dev/v1alpha1
kind: ModelDeployment
metadata: {name: one}
spec:
  model: {pvc: {claimName: m}}
"""
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


def test_explain_tells_why_a_rule_did_nothing(tmp_path, capsys):
    file = tmp_path / "d.yaml"
    file.write_text(DISAGG.read_text().replace("  limits:", "  rules: {configMapRef: {name: mine}}\n  limits:"))
    rules = tmp_path / "rules"
    rules.mkdir()
    (rules / "torch.rule").write_text("when isl:\n  decode max_batch_size = 3\n")

    assert run(["explain", "-f", str(file), "--rules", str(rules), "maxBatchSize"]) == 0
    assert capsys.readouterr().out.splitlines()[-2:] == [
        "ConfigMap mine/torch.rule:2: decode maxBatchSize = 3: skipped",
        "    ConfigMap mine/torch.rule:1: when isl: does not hold",
    ]
    assert run(["explain", "-f", str(file), "--rules", str(rules), "maxBatchSize", "-o", "json"]) == 0
    (hit,) = json.loads(capsys.readouterr().out)[0]["rules"]
    assert (hit["outcome"], hit["expression"], hit["value"]) == ("skipped", "3", None)
    assert hit["failed"] == "ConfigMap mine/torch.rule:1: when isl"


@pytest.mark.parametrize(
    ("content", "told"),
    [(b"\n\xff", "torch.rule:2: this is no text in UTF-8"), (b"#" * 2**21, "torch.rule: no ConfigMap holds a file")],
)
def test_a_rule_file_that_is_no_text_is_located(content, told, tmp_path, capsys):
    (tmp_path / "torch.rule").write_bytes(content)
    assert run(["render", "-f", str(DISAGG), "--rules", str(tmp_path)]) == 1
    assert told in capsys.readouterr().err


def test_a_namespace_that_is_none_is_refused_before_any_cluster_is_asked(tmp_path, capsys):
    assert run(["diff", "-f", str(DISAGG), "-n", "../kube-system"]) == 1
    assert "error: --namespace: a name here is of a-z" in capsys.readouterr().err


def test_explain_shows_each_value_with_source_and_arguments(capsys):
    assert run(["explain", "-f", str(DISAGG)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["DEPLOYMENT", "ROLE", "PARAMETER", "VALUE", "SOURCE", "FROM", "DEFAULT", "ARGUMENTS"]
    row = next(line for line in lines if "decode" in line and "maxSeqLen" in line)
    assert row.split() == [
        *(
            "demo",
            "decode",
            "maxSeqLen",
            "512",
            "parameters",
            "spec.parameters.maxSeqLen",
            "-",
            "--max-model-len",
            "512",
        )
    ]


@pytest.mark.parametrize("name", ["maxSeqLen", "max_seq_len", "max-seq-len"])
def test_explain_takes_a_parameter_however_it_is_written(name, capsys):
    assert run(["explain", "-f", str(DISAGG), name, "-o", "yaml"]) == 0
    (document,) = yaml.safe_load(capsys.readouterr().out)
    assert {value["name"] for value in document["parameters"]} == {"maxSeqLen"}


def explained(file: Path, capsys, *arguments: str) -> dict[tuple[str, str], dict]:
    assert run(["explain", "-f", str(file), "-o", "json", *arguments]) == 0
    (document,) = json.loads(capsys.readouterr().out)
    return {(row["role"], row["name"]): row for row in document["parameters"]}


def test_explain_shows_what_the_engine_decides_after_what_was_given(capsys):
    rows = explained(DISAGG, capsys)
    sources = [row["source"] for (role, _), row in rows.items() if role == "decode"]
    assert sources == sorted(sources, key=lambda source: source == "engine")
    unset = rows["decode", "trustRemoteCode"]
    assert (unset["value"], unset["source"], unset["detail"], unset["arguments"]) == (None, "engine", "torch 1", [])
    assert rows["decode", "kvTransferBackend"]["value"] == "http"
    assert ("decode", "moeBackend") not in rows


def test_explain_cuts_long_values_in_the_table_only(tmp_path, capsys):
    file = tmp_path / "d.yaml"
    sizes = list(range(1, 101))
    file.write_text(ONE + f"  backend: vllm\n  parameters: {{cudaGraphBatchSizes: {sizes}}}\n")
    assert run(["explain", "-f", str(file), "cudaGraphBatchSizes"]) == 0
    assert " [1, 2, … 100] (100 values) " in capsys.readouterr().out
    (row,) = explained(file, capsys, "cudaGraphBatchSizes").values()
    assert row["value"] == sizes
    assert len(row["arguments"]) == 101


def test_explain_shows_limits_given_and_default(tmp_path, capsys):
    file = tmp_path / "d.yaml"
    file.write_text(ONE + "  limits: {maxQueue: 7}\n")
    rows = explained(file, capsys)
    given, default = rows["*", "limits.maxQueue"], rows["*", "limits.concurrency"]
    assert (given["value"], given["source"], given["detail"]) == (7, "limits", "spec.limits.maxQueue")
    assert (default["value"], default["source"]) == (16, "default")
    assert default["detail"] == "templates/torch/mapping.1.yaml"
    assert list(explained(file, capsys, "limits.maxQueue")) == [("*", "limits.maxQueue")]


@pytest.mark.parametrize(
    ("parameter", "told"),
    [
        ("moe_all2all_backend", "moeAll2AllBackend cannot be had on torch 1"),
        ("moeBackend", "moeBackend cannot be had on torch 1: the bundled server has one implementation of it. Remove"),
        ("kvTransferBackend", "kvTransferBackend means something in mode disagg only."),
    ],
)
def test_explain_says_why_a_parameter_has_no_value(parameter, told, capsys):
    assert run(["explain", "-f", str(EXAMPLES / "torch-agg.yaml"), parameter]) == 0
    assert told in capsys.readouterr().out


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
    assert (problem["file"], problem["line"], problem["column"]) == (str(file), 10, 54)
    assert (problem["path"], problem["value"]) == ("spec.backendVersion", "0")
    assert problem["reason"]
    assert problem["fix"]


def test_s2_24_validate_exits_1_with_path_and_reason(tmp_path, capsys):
    file = tmp_path / "f.yaml"
    file.write_text(DISAGG.read_text().replace("replicas: 1", "replicas: -1", 1))
    assert run(["validate", "-f", str(file)]) == 1
    output = capsys.readouterr()
    assert f"{file}:14:25: spec.roles.prefill.replicas: it must be at least 0 (got -1)" in output.err
    assert output.out == ""


@pytest.mark.parametrize("command", ["render", "explain", "validate"])
def test_what_cannot_be_built_is_located_in_the_file(command, tmp_path, capsys):
    file = tmp_path / "d.yaml"
    file.write_text(ONE + "  roles:\n    agg:\n      extraArgs:\n        - --port=1\n")
    assert run([command, "-f", str(file)]) == 1
    assert f"error: {file}:9:11: spec.roles.agg.extraArgs[0]: this flag is set by Tandem" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("written", "fix"),
    [
        ("max-model-len: 4096", "Write maxSeqLen."),
        ("gpu_memory_utilization: 0.9", "Write kvCacheFreeGpuMemoryFraction."),
        ("enforce-eager: true", "Write disableCudaGraph: true."),
        ("mem-fraction-static: 0.8", "Write kvCacheFreeGpuMemoryFraction."),
        ("enable_block_reuse: true", "Write disablePrefixCache."),
        ("free_gpu_memory_fraction: 0.8", "Write kvCacheFreeGpuMemoryFraction."),
        ("no-enable-prefix-caching: true", "Write disablePrefixCache: true."),
        ("tensor-parallel-size: 2", "Did you mean tensorParallelSize?"),
    ],
)
def test_the_engines_own_name_of_a_parameter_leads_to_ours(written, fix, tmp_path, capsys):
    file = tmp_path / "d.yaml"
    file.write_text(ONE + f"  parameters: {{{written}}}\n")
    assert run(["validate", "-f", str(file)]) == 1
    assert capsys.readouterr().err.rstrip().endswith(fix)


@pytest.mark.parametrize("format_name", ["yaml", "json"])
def test_render_refuses_a_format_for_a_directory(format_name, capsys):
    assert run(["render", "-f", str(DISAGG), "-o", format_name]) == 1
    assert "this is a directory's name here" in capsys.readouterr().err


def test_a_version_that_is_not_known_is_told_at_its_option(capsys):
    assert run(["explain", "--backend", "vllm", "--backend-version", "9"]) == 1
    assert capsys.readouterr().err.startswith("error: --backend-version: this version of vllm is not known (got '9').")


def test_a_second_file_is_refused_not_dropped(capsys):
    assert run(["validate", "-f", str(DISAGG), "-f", str(EXAMPLES / "torch-agg.yaml")]) == 2
    assert "give it once" in capsys.readouterr().err


def test_a_resource_that_stands_twice_in_a_file_is_refused(tmp_path, capsys):
    file = tmp_path / "twice.yaml"
    file.write_text(f"{ONE}---\n{ONE}")
    assert run(["validate", "-f", str(file)]) == 1
    said = capsys.readouterr().err
    assert f"{file}:9:18: metadata.name: this ModelDeployment is defined twice, first at {file}:3:18" in said


@pytest.mark.parametrize(("option", "name"), [("--rules", "torch.rule"), ("--templates", "cli_args.1.j2")])
def test_files_that_the_deployment_does_not_ask_for_are_told(tmp_path, capsys, option, name):
    (tmp_path / name).write_text("# nothing\n")
    assert run(["render", "-f", str(DISAGG), option, str(tmp_path)]) == 0
    assert f"warning: spec.{option[2:]}.configMapRef: names no ConfigMap" in capsys.readouterr().err


MISSPELT = f"{ONE}  roles: {{agg: {{podTemplate: {{spec: {{containrs: []}}}}}}}}\n"


def test_validate_refuses_a_field_that_no_pod_has(tmp_path, capsys):
    file = tmp_path / "d.yaml"
    file.write_text(MISSPELT)

    assert run(["validate", "-f", str(file)]) == 1
    told = capsys.readouterr().err
    assert f"{file}:6:38: spec.roles.agg.podTemplate.spec.containrs: " in told
    assert "Did you mean containers?" in told


def test_validate_only_warns_of_it_when_asked_as_a_newer_api_server_may_know_it(tmp_path, capsys):
    file = tmp_path / "d.yaml"
    file.write_text(MISSPELT)

    assert run(["validate", "-f", str(file), "--allow-unknown-fields"]) == 0
    assert "  warning: spec.roles.agg.podTemplate.spec.containrs: " in capsys.readouterr().out


def test_render_warns_of_it_for_the_api_server_judges(tmp_path, capsys):
    file = tmp_path / "d.yaml"
    file.write_text(MISSPELT)

    assert run(["render", "-f", str(file)]) == 0
    printed = capsys.readouterr()
    assert "warning: spec.roles.agg.podTemplate.spec.containrs: " in printed.err
    assert "containrs: []" in printed.out


def test_local_mode_refuses_it_for_nothing_else_would(tmp_path, capsys):
    file = tmp_path / "d.yaml"
    file.write_text(MISSPELT)
    (tmp_path / "config.json").write_text("{}")

    assert run(["local", "up", "-f", str(file), "--volume", f"m={tmp_path}", "--once", "hello"]) == 1
    assert "spec.roles.agg.podTemplate.spec.containrs: " in capsys.readouterr().err


def test_explain_shows_what_was_given_before_what_follows_and_leaves_the_engine_out(capsys):
    assert run(["explain", "-f", str(DISAGG)]) == 0
    lines = capsys.readouterr().out.splitlines()

    sources = [line.split()[4] for line in lines[1:-1]]
    given = [source in ("user", "parameters", "limits") for source in sources]
    assert given == sorted(given, reverse=True)
    assert "engine" not in sources
    assert lines[-1].startswith("The engine decides ")


def test_explain_shows_what_the_engine_decides_when_asked(capsys):
    assert run(["explain", "-f", str(DISAGG), "--all"]) == 0
    told = capsys.readouterr().out

    assert "tensorParallelSize" in told
    assert "--all" not in told


@pytest.mark.parametrize(
    ("name", "fix"),
    [
        ("max-num-seqs", "Ask for maxBatchSize."),
        ("max_model_len", "Ask for maxSeqLen."),
        ("enforce-eager", "Ask for disableCudaGraph."),
        ("tp", "Ask for tensorParallelSize."),
        ("moe_ep", "Ask for moeExpertParallelSize."),
    ],
)
def test_explain_leads_from_other_names_to_ours(name, fix, capsys):
    assert run(["explain", "-f", str(DISAGG), name]) == 1
    assert capsys.readouterr().err.endswith(f"{fix}\n")


@pytest.mark.parametrize("command", ["validate", "render", "explain"])
@pytest.mark.parametrize("what", ["rules", "templates"])
def test_a_config_map_without_its_files_is_told_with_the_option_for_them(command, what, tmp_path, capsys):
    file = tmp_path / "d.yaml"
    file.write_text(f"{ONE}  {what}: {{configMapRef: {{name: mine}}}}\n")

    assert run([command, "-f", str(file)]) == 1
    told = capsys.readouterr().err
    assert f"spec.{what}.configMapRef: no cluster is asked here" in told
    assert f"Add --{what} DIR" in told


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (["explain", "--backend", "sgl", "-o", "json"], "--backend"),
        (["explain", "--bakend", "sglang", "-o", "json"], "--bakend"),
        (["validate", "-o", "json"], "--file"),
    ],
)
def test_wrong_usage_is_told_at_its_option(arguments, option, capsys):
    assert run(arguments) == 2
    (problem,) = json.loads(capsys.readouterr().err)["problems"]
    assert problem["path"] == option
    assert problem["fix"].startswith(f"See tandem {arguments[0]} --help")


@pytest.mark.parametrize("arguments", [["--backend", "vlm"], ["--backend", "vllm", "--version", "3"]])
def test_schema_tells_what_is_wrong_at_its_option(arguments, capsys):
    assert run(["schema", *arguments]) == 1
    assert capsys.readouterr().err.startswith(f"error: {arguments[-2]}: ")


def test_schema_has_one_short_line_for_each_parameter_and_backend(capsys):
    assert run(["schema"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("cudaGraphBatchSizes ")]

    assert len(lines) == 4
    assert max(map(len, lines)) <= 170


def test_schema_wraps_what_does_not_fit_a_terminal():
    rows = [("KEY", "MEANING"), ("a", "some words that are too long for the width")]

    assert list(aligned(rows, 25)) == [
        "KEY  MEANING",
        "a    some words that are",
        "     too long for the",
        "     width",
    ]


@pytest.mark.parametrize(("content", "told"), [(None, "is empty"), ("model.safetensors", "has no config.json")])
def test_local_mode_tells_what_a_model_directory_lacks(content, told, tmp_path, capsys):
    file = tmp_path / "d.yaml"
    file.write_text(ONE)
    models = tmp_path / "models"
    models.mkdir()
    if content is not None:
        (models / content).write_text("")

    assert run(["local", "up", "-f", str(file), "--volume", f"m={models}", "--once", "hello"]) == 1
    assert f"{models} {told}, so it is not a model" in capsys.readouterr().err
