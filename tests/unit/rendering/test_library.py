"""Looking things up: versions, templates by version, rule sets, what ConfigMaps replace."""

import pytest

from tandem.api.problems import Refused
from tandem.rendering.library import load_library


def refusal(call):
    with pytest.raises(Refused) as refused:
        call()
    return str(refused.value)


def test_the_preferred_version_is_taken_when_none_is_named(library):
    assert library.table("torch", None).version == "1"
    assert library.table("vllm", None).version == "0.33.0"


def test_s0_12_an_unknown_version_is_refused_with_the_versions_known(library):
    assert refusal(lambda: library.table("vllm", "9.9.9-nope")) == (
        "spec.backendVersion: this version of vllm is not known (got '9.9.9-nope'). Use one of: 0.32.0, 0.33.0."
    )


def test_a_backend_without_a_table_is_refused_with_those_that_have_one(library):
    expected = "spec.backend: this backend is not served yet (got 'other'). Use one of: sglang, torch, trtllm, vllm."

    assert refusal(lambda: library.table("other", None)) == expected


def write(folder, files):
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


TABLE = """\
backend: b
image: i
command: [c]
parameters: {tensor_parallel_size: --x, PARAMETERS}
limits: {timeout_seconds: 60, max_new_tokens: null, default_max_new_tokens: null, concurrency: null,
  max_prompt_tokens: null, on_overlong: null, max_queue: null}
"""


def test_s0_12_a_version_takes_its_own_template_then_those_it_extends_then_the_unversioned(tmp_path, library):
    names = [name for name in library.table("torch", None).entries if name != "tensor_parallel_size"]
    whole = TABLE.replace("PARAMETERS", ", ".join(f"{name}: --x" for name in names))
    write(
        tmp_path,
        {
            "b/mapping.1.yaml": whole + 'version: "1"\n',
            "b/mapping.2.yaml": 'extends: "1"\nversion: "2"\npreferred: true\n',
            "b/mapping.3.yaml": whole + 'version: "3"\n',
            "b/cli_args.1.j2": "- one\n",
            "b/cli_args.j2": "- any\n",
            "b/engine.2.yaml.j2": "of: two\n",
            "b/engine.yaml.j2": "of: any\n",
        },
    )

    loaded = load_library(templates_dir=tmp_path)

    def arguments(version):
        return loaded.arguments(loaded.table("b", version)).render({})[1]

    def files(version):
        return {name: template.render({})[1] for name, template in loaded.files(loaded.table("b", version)).items()}

    assert [arguments(version) for version in ("1", "2", "3")] == [["one"], ["one"], ["any"]]
    assert [files(version) for version in ("1", "2", "3")] == [
        {"engine.yaml": {"of": "any"}},
        {"engine.yaml": {"of": "two"}},
        {"engine.yaml": {"of": "any"}},
    ]


def test_s0_15_a_backend_without_a_rule_file_has_no_rules(tmp_path):
    assert load_library(rules_dir=tmp_path).rule_file("production", "torch").lines == ()


def test_s0_38_rule_sets_are_folders_of_the_same_backends(library):
    for backend in ("torch", "vllm"):
        production, benchmark = (library.rule_file(name, backend) for name in ("production", "benchmark"))
        assert production.lines
        assert benchmark.lines
        assert production != benchmark


def test_s0_15_rules_of_a_config_map_replace_the_shipped_ones(library):
    mine = library.with_rules(
        backend="vllm",
        rule_set="production",
        texts={"vllm.rule": "max_batch_size = 3", "torch.rule": ""},
        label="ConfigMap mine",
        path="spec.rules.configMapRef",
    )

    assert [line.location for line in mine.rule_file("production", "vllm").lines] == ["ConfigMap mine/vllm.rule:1"]
    assert mine.rule_file("production", "torch") == library.rule_file("production", "torch")
    assert len(library.rule_file("production", "vllm").lines) > 1


def test_rules_of_a_config_map_without_the_backends_file_are_refused(library):
    message = refusal(
        lambda: library.with_rules(
            backend="vllm", rule_set="production", texts={"vlm.rule": ""}, label="ConfigMap mine", path="spec.rules"
        )
    )
    assert message == "spec.rules: ConfigMap mine has no entry vllm.rule (got 'vlm.rule'). Add the entry vllm.rule."


def with_templates(library, texts):
    return library.with_templates(backend="torch", texts=texts, label="ConfigMap mine", path="spec.templates")


def test_s0_31_a_template_of_a_config_map_wins(library):
    mine = with_templates(library, {"cli_args.1.j2": "- mine\n"})

    assert mine.arguments(mine.table("torch", None)).render({})[1] == ["mine"]
    assert "config.yml" in mine.files(mine.table("torch", None))


@pytest.mark.parametrize(
    ("texts", "reason"),
    [
        ({"cli_args.9.j2": "- x\n"}, "entries that replace no template (got 'cli_args.9.j2'). Templates of torch: cli"),
        ({}, "spec.templates: ConfigMap mine has no entries"),
        ({"cli_args.1.j2": "- {{"}, "ConfigMap mine/cli_args.1.j2:1: malformed template"),
    ],
)
def test_templates_of_a_config_map_that_fit_nothing_are_refused(library, texts, reason):
    assert reason in refusal(lambda: with_templates(library, texts))


def test_s0_15_entries_beside_the_rules_of_backends_are_refused(library):
    texts = {"torch.rule": "", "vllm.rule": "x = (", "vlm.rule": "", "README": ""}

    with pytest.raises(Refused) as refused:
        library.with_rules(backend="torch", rule_set="production", texts=texts, label="ConfigMap r", path="spec.rules")

    assert str(refused.value) == (
        "spec.rules: ConfigMap r has entries that are rules of no backend (got 'README, vlm.rule'). "
        "Remove them; rule files are: sglang.rule, torch.rule, trtllm.rule, vllm.rule."
    )


def test_s0_15_rules_of_other_backends_may_stand_beside_those_in_use(library):
    texts = {"torch.rule": "max_batch_size = 5", "vllm.rule": "x = ("}

    mine = library.with_rules(backend="torch", rule_set="production", texts=texts, label="r", path="spec.rules")

    assert [line.name for line in mine.rule_file("production", "torch").lines] == ["max_batch_size"]


def test_only_what_is_asked_for_is_read(tmp_path):
    write(tmp_path, {"a/mapping.1.yaml": "a: [", "a/cli_args.j2": "- {{", "b/mapping.1.yaml": "a: ["})

    loaded = load_library(templates_dir=tmp_path)

    assert sorted(loaded.tables) == ["a", "b"]
    assert "templates/a/mapping.1.yaml: malformed" in refusal(lambda: loaded.table("a", None))
    assert "templates/a/cli_args.j2:1: malformed" in refusal(lambda: loaded.templates["a"]["cli_args.j2"])


def test_a_complete_library_is_the_same_value(library):
    assert library.complete() == library
    assert library.complete().table("vllm", None) is library.table("vllm", None)
