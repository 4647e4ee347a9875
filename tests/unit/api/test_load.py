"""From text to resources: every mistake is located and says what to do."""

import os
import time
from pathlib import Path

import pytest

from tandem.api.load import load, load_deployment, load_one, parse_resource
from tandem.api.problems import Problem, Refused, refuse

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
        load(path)
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
        (
            "a: 1\n\tb: 2",
            "Indent with spaces: YAML takes no tabs.",
        ),
        ("", "/d.yaml: the file holds no resource"),
        ("# nothing\n---\n", "/d.yaml: the file holds no resource"),
        ("- 1", "/d.yaml:1:1: .: a resource is a map"),
        ("5", "/d.yaml:1:1: .: a resource is a map (got 5)"),
        (GOOD.replace("ModelDeployment", "Deployment"), "/d.yaml:2:7: kind: this kind is not one of Tandem's"),
        (GOOD.replace("ModelDeployment", "Modeldeployment"), "Did you mean ModelDeployment?"),
        ("kind: List\nitems: []\n", "Write its items as documents of their own"),
        (
            GOOD.replace("kind: ModelDeployment\n", ""),
            "/d.yaml:1:1: kind: this kind is not one of Tandem's. Use one of",
        ),
        (GOOD.replace("v1alpha1", "v9"), "/d.yaml:1:13: apiVersion: unknown API version (got 'tandem.dev/v9')"),
        (GOOD.split("\n", 1)[1], "/d.yaml:1:1: apiVersion: required, but missing. Write tandem.dev/v1alpha1."),
        (
            GOOD.replace("claimName", "claimNmae"),
            "/d.yaml:5:17: spec.model.pvc.claimNmae: unknown field (got 'models')",
        ),
        (GOOD.replace("claimName: models, ", ""), "/d.yaml:5:11: spec.model.pvc.claimName: required, but missing. Add"),
        (
            GOOD + "  parameters:\n    maxBatchSize: 0\n",
            "/d.yaml:7:19: spec.parameters.maxBatchSize: it must be at least 1",
        ),
        (GOOD + "  mode: disagg\n", "/d.yaml:6:3: spec.mode: mode disagg needs roles.prefill and roles.decode"),
        (GOOD + "  roles: {prefill: {}}\n", "/d.yaml:6:3: spec.roles: mode agg has one role, agg"),
        (GOOD + "  sla: {isl: .nan}\n", "/d.yaml:6:14: infinity and NaN are no numbers here (got '.nan')"),
        (GOOD.replace("{name: qwen}", "{}"), "/d.yaml:3:1: metadata.name: a resource needs a name"),
        (GOOD.replace("name: qwen", "name: My Model"), "/d.yaml:3:18: metadata.name: a name here is of a-z"),
        (GOOD.replace("name: qwen", "name: q, namespace: ../x"), "/d.yaml:3:32: metadata.namespace: a name here is of"),
        (GOOD.replace("name: qwen", "name: q, namespace: ''"), "/d.yaml:3:32: metadata.namespace: a name here is of"),
        (GOOD.replace("{name: qwen}", "{name: qwen, label: {a: b}}"), "/d.yaml:3:24: metadata.label: unknown field"),
        (b"\xff\xfe\x00", "/d.yaml:1: this is UTF-16. Save it as UTF-8."),
        (b"a: 1\nb: \xff", "/d.yaml:2: this is no text in UTF-8"),
        (b"\x7fELF\x00\x01", "/d.yaml:1:1: a text has no character 0x7f"),
    ],
)
def test_a_mistake_is_located(tmp_path, text, expected):
    assert expected in refusal(tmp_path, text)


def test_a_misspelt_parameter_gets_the_near_name_and_the_line_of_the_key(tmp_path):
    message = refusal(tmp_path, GOOD + "  parameters:\n    maxSeqLen: 9\n    maxBatchSzie: 3\n")

    assert message == "/d.yaml:8:5: spec.parameters.maxBatchSzie: unknown field (got 3). Did you mean maxBatchSize?"


def test_all_mistakes_are_told_at_once(tmp_path):
    message = refusal(tmp_path, GOOD + "  backend: x\n  mode: y\n  replicas: -1\n---\nkind: Pod\n")

    assert len(message.splitlines()) == 4


def test_a_document_without_end_of_mistakes_is_given_up(tmp_path):
    message = refusal(tmp_path, "---\nkind: Pod\n" * 5000)

    assert len(message.splitlines()) < 200


@pytest.mark.parametrize("place", ["metadata: {labels: {MANY}}", "metadata: {MANY}", "spec: {parameters: {MANY}}"])
def test_mistakes_without_end_are_told_in_part_and_soon(tmp_path, place):
    many = ", ".join(f"k{index}: 1" for index in range(20_000))
    started = time.process_time()
    message = refusal(tmp_path, GOOD.split("metadata", maxsplit=1)[0] + place.replace("MANY", many) + "\n")
    assert len(message.splitlines()) <= 102
    assert time.process_time() - started < 60


def test_a_mistake_in_the_second_document_is_located_by_the_files_line(tmp_path):
    message = refusal(tmp_path, GOOD + "---\n" + GOOD + "  x: 1\n")

    assert message.startswith("/d.yaml:12:3: spec.x: unknown field")


def test_a_value_behind_an_alias_is_located_where_it_stands(tmp_path):
    text = GOOD + "  roles:\n    agg: {parameters: &p {maxBatchSize: 0}}\n  parameters: *p\n"

    assert [line.split(": ")[0] for line in refusal(tmp_path, text).splitlines()] == ["/d.yaml:7:41", "/d.yaml:7:41"]


def test_what_is_refused_later_is_located_by_its_path_as_text(tmp_path):
    (tmp_path / "d.yaml").write_text(GOOD + "  roles:\n    agg:\n      extraArgs:\n        - a\n        - --port=1\n")
    _, loaded = load_one(tmp_path / "d.yaml")

    with pytest.raises(Refused) as refused, loaded.locating():
        raise refuse("spec.roles.agg.extraArgs[1]", "--port=1", "this flag is set by Tandem", "Remove it.")

    assert str(refused.value).startswith(f"{tmp_path}/d.yaml:10:11: spec.roles.agg.extraArgs[1]: this flag")


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("spec.backendVersion", 4),
        ("spec.model.pvc.path", 5),
        ("metadata.labels.example.com/team", 3),
        ("metadata.labels.example.com/other", 3),
    ],
)
def test_what_is_not_in_the_file_is_located_at_what_is_around_it(tmp_path, path, line):
    (tmp_path / "d.yaml").write_text(GOOD.replace("qwen}\nspec", "qwen, labels: {example.com/team: a}}\nspec"))
    _, loaded = load_one(tmp_path / "d.yaml")

    assert loaded.located(Problem(path, "", "wrong", "")).path.startswith(f"{tmp_path}/d.yaml:{line}:")


def test_a_problem_of_another_file_stays_as_it_is(tmp_path):
    (tmp_path / "d.yaml").write_text(GOOD)
    problem = Problem("rules/torch.rule:3:1", "", "wrong", "")

    assert load_one(tmp_path / "d.yaml")[1].located(problem) == problem


def test_a_missing_file_says_so(tmp_path):
    with pytest.raises(Refused, match=r"none\.yaml: the file does not exist"):
        load(tmp_path / "none.yaml")


def test_a_directory_says_so(tmp_path):
    with pytest.raises(Refused, match="this is a directory"):
        load(tmp_path)


def test_a_file_that_may_not_be_read_says_so(tmp_path):
    (tmp_path / "d.yaml").touch(mode=0)
    if os.access(tmp_path / "d.yaml", os.R_OK):
        pytest.skip("this user may read everything")
    with pytest.raises(Refused, match="cannot be read: Permission denied"):
        load(tmp_path / "d.yaml")


def test_a_file_without_end_is_refused():
    with pytest.raises(Refused, match="the file is too large"):
        load(Path("/dev/zero"))


def test_two_deployments_are_not_one(tmp_path):
    (tmp_path / "d.yaml").write_text(GOOD + "---\n" + GOOD.replace("name: ", "name: other-"))
    with pytest.raises(Refused, match="2 ModelDeployments are in it"):
        load_deployment(tmp_path / "d.yaml")


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
