"""What becomes of parameters on a backend: mapped, approximated, refused."""

import json
import re

import pytest

from tandem.api.problems import Refused
from tandem.cli.app import run
from tandem.generator.portability import report
from tandem.rendering.mapping import PARAMETER_NAMES

DISAGG = """
apiVersion: tandem.dev/v1alpha1
kind: ModelDeployment
metadata: {name: m}
spec:
  model: {hub: {repo: a/b}}
  backend: vllm
  mode: disagg
  parameters: {kvCacheDtype: int8, tensorParallelSize: 2}
  roles: {prefill: {parameters: {tensorParallelSize: 4}}, decode: {}}
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "deployment.yaml"
    path.write_text(DISAGG)
    return str(path)


def test_every_parameter_of_every_backend_has_a_row(library):
    for backend, versions in library.tables.items():
        for version in versions:
            rows = report(library, backend, version=version)
            assert [row.name for row in rows] == list(PARAMETER_NAMES)
            assert all(row.reason and row.fix for row in rows if row.status == "refused")


@pytest.mark.parametrize(
    ("given", "status", "flags"),
    [
        ({"tensor_parallel_size": 2}, "mapped", ("--tensor-parallel-size", "2")),
        ({"kv_cache_dtype": "int8"}, "approximated", ("--kv-cache-dtype", "int8_per_token_head")),
        ({"kv_cache_max_tokens": 100}, "refused", ()),
    ],
)
def test_a_value_is_mapped_approximated_or_refused(given, status, flags, library):
    [row] = report(library, "vllm", given=given)

    assert (row.status, row.flags) == (status, flags)


def test_an_unknown_parameter_is_refused(library):
    with pytest.raises(Refused, match="there is no such parameter"):
        report(library, "vllm", given={"tensor": 1})


def test_explain_reports_every_parameter_of_a_backend(capsys):
    assert run(["explain", "--backend", "torch", "-o", "json"]) == 0

    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert len(rows) == len(PARAMETER_NAMES)
    assert rows["kvCacheMaxTokens"] == {
        "name": "kvCacheMaxTokens",
        "status": "mapped",
        "becomes": ["--kv-cache-tokens"],
        "reason": "",
        "fix": "",
    }
    assert rows["moeBackend"]["status"] == "refused"


def test_explain_reports_what_becomes_of_a_file_elsewhere(file, capsys):
    assert run(["explain", "-f", file, "--backend", "torch"]) == 0

    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["DEPLOYMENT", "ROLE", "PARAMETER", "VALUE", "STATUS", "BECOMES", "WHY"]
    assert [line.split()[:5] for line in lines[1:]] == [
        ["m", "prefill", "tensorParallelSize", "4", "refused"],
        ["m", "prefill", "kvCacheDtype", "int8", "refused"],
        ["m", "decode", "tensorParallelSize", "2", "refused"],
        ["m", "decode", "kvCacheDtype", "int8", "refused"],
    ]


@pytest.mark.parametrize("argument", [("maxBatchSize",), ("--parameter", "max_batch_size")])
def test_explain_tells_what_a_value_would_be_otherwise(argument, tmp_path, capsys):
    path = tmp_path / "deployment.yaml"
    path.write_text(DISAGG.replace("decode: {}", "decode: {parameters: {maxBatchSize: 7}}"))

    assert run(["explain", "-f", str(path), *argument, "-o", "json"]) == 0

    [explained] = json.loads(capsys.readouterr().out)
    defaults = {row["role"]: (row["value"], row["source"], row["default"]) for row in explained["parameters"]}
    given, ruled = defaults["decode"], defaults["prefill"]
    assert given[:2] == (7, "user")
    assert (given[2]["value"], given[2]["source"]) == (128, "rule")
    assert ruled[2]["value"] == ruled[0]


def test_explain_says_in_words_what_a_value_would_be_otherwise(file, capsys):
    assert run(["explain", "-f", file, "tensorParallelSize"]) == 0

    assert "decode tensorParallelSize without the user's value: - (engine vllm " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((), 2, "or a backend with --backend"),
        (("-f", "FILE", "--mode", "agg"), 2, "--backend-version and --mode need --backend"),
        (("--backend", "nope"), 2, "is not one of"),
        (("--backend", "vllm", "--backend-version", "0"), 1, "this version of vllm is not known"),
    ],
)
def test_explain_refuses_what_it_cannot_answer(arguments, code, message, file, capsys):
    assert run(["explain", *(file if word == "FILE" else word for word in arguments)]) == code
    assert message in capsys.readouterr().err


def explained(text, tmp_path, capsys, *arguments):
    path = tmp_path / "deployment.yaml"
    path.write_text(text)
    assert run(["explain", "-f", str(path), *arguments]) == 0
    return capsys.readouterr().out


def test_s0_39_explain_lists_value_source_default_and_flag(tmp_path, capsys):
    text = DISAGG.replace("decode: {}", "decode: {parameters: {maxBatchSize: 7}}")

    lines = [re.split(r" {2,}", line) for line in explained(text, tmp_path, capsys).splitlines()]

    assert lines[0] == ["DEPLOYMENT", "ROLE", "PARAMETER", "VALUE", "SOURCE", "FROM", "DEFAULT", "ARGUMENTS"]
    own, role = "spec.roles.decode.parameters.maxBatchSize", "spec.roles.prefill.parameters.tensorParallelSize"
    assert ["m", "decode", "maxBatchSize", "7", "user", own, "128", "--max-num-seqs 7"] in lines
    assert ["m", "prefill", "maxBatchSize", "1", "rule", "rules/vllm.rule:5", "1", "--max-num-seqs 1"] in lines
    assert ["m", "prefill", "tensorParallelSize", "4", "user", role, "-", "--tensor-parallel-size 4"] in lines


def test_explain_warns_of_what_is_not_quite_what_was_asked(tmp_path, capsys):
    everything = explained(DISAGG, tmp_path, capsys)
    [whole] = json.loads(explained(DISAGG, tmp_path, capsys, "-o", "json"))

    lost = "vLLM keeps a scale per token and head with it"
    warning = f"spec.parameters.kvCacheDtype: kv_cache_dtype int8 becomes --kv-cache-dtype int8_per_token_head: {lost}"
    assert f"warning: {warning}" in everything.splitlines()
    assert whole["warnings"] == [warning]
    assert {row["note"] for row in whole["parameters"] if row["name"] == "kvCacheDtype"} == {lost}
    assert f"decode kvCacheDtype: {lost}" in explained(DISAGG, tmp_path, capsys, "kvCacheDtype").splitlines()


MUST = """
apiVersion: tandem.dev/v1alpha1
kind: ModelDeployment
metadata: {name: m}
spec:
  model: {hub: {repo: a/b}}
  backend: trtllm
  mode: agg
  rules: {configMapRef: {name: none}}
  parameters: {tensorParallelSize: 4, moeExpertParallelSize: 4}
"""


def test_explain_tells_that_a_value_cannot_be_left_out(tmp_path, capsys):
    (tmp_path / "rules").mkdir()
    (tmp_path / "rules" / "trtllm.rule").write_text("")

    out = explained(MUST, tmp_path, capsys, "tensorParallelSize", "--rules", str(tmp_path / "rules"))

    assert "must be given" in out
    assert "without the user's value: spec.parameters.moeExpertParallelSize: " in out
