"""Mapping files: every mistake is located, and no file ends in anything but a table or located mistakes."""

import copy

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tandem.api.problems import Refused
from tandem.data import data_dir
from tandem.generator.calls import generate_backend_artifacts, generate_config_from_input_dict, with_mapping_of
from tandem.generator.reading import read_data
from tandem.rendering.library import load_library
from tandem.rendering.mapping import PARAMETER_NAMES
from tandem.rendering.mapping_file import extend, parse_mapping

LIMITS = {
    "limits": {"timeout_seconds": 60},
    "limits_refused": {
        name: {"reason": "it has no such limit", "fix": "Remove it."}
        for name in (
            *("max_new_tokens", "default_max_new_tokens", "concurrency", "max_prompt_tokens", "on_overlong"),
            "max_queue",
        )
    },
}
SHIPPED = [
    (folder.name, file.name)
    for folder in data_dir("templates").iterdir()
    for file in folder.iterdir()
    if file.name.startswith("mapping.")
]


def minimal(**changes):
    whole = {"backend": "b", "version": "1", "lineage": ["1"], "image": "i", "command": ["c"], **LIMITS}
    return whole | {"parameters": dict.fromkeys(PARAMETER_NAMES, "--flag")} | changes


def entry(raw):
    return minimal(parameters=minimal()["parameters"] | {"moe_backend": raw})


KNOWN_KEYS = (
    "backend, version, image, command, parameters, limits, lineage, preferred, defaults, role_defaults, "
    "limits_refused, reserved, passed, must_match, agreement, constraints, served_name"
)
ENTRY_KEYS = "flag, env, setting, when, unsupported, in_disagg, values, list, mode, notes, otherwise, fix"
ONE_FORM = "Give exactly one of flag, env, setting, when, unsupported."
A_MAP = "Write keys and values below it."


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        (minimal(bogus=1), f"bogus: there is no such key. Known: {KNOWN_KEYS}."),
        (
            {key: value for key, value in minimal().items() if key != "image"},
            "image: required, but missing. Add it.",
        ),
        (minimal(version=1.2), "version: must be a text (got 1.2). Put quotes around it."),
        (minimal(image=""), "image: must be a text (got ''). Put quotes around it."),
        (minimal(command="c"), "command: must be a list of texts (got 'c'). Write [a, b]."),
        (minimal(command=[]), "command: must be a list of texts (got []). Write [a, b]."),
        (minimal(command=["c", 1]), "command[1]: must be a text (got 1). Put quotes around it."),
        (minimal(preferred="yes"), "preferred: must be true or false (got 'yes'). Write true or false."),
        (minimal(parameters=[]), f"parameters: must be a map (got []). {A_MAP}"),
        (
            minimal(constraints=["bogus"]),
            "constraints[0]: there is nothing of this name (got 'bogus'). "
            "Known: attention, blocks, budget, experts, graphs.",
        ),
        (minimal(agreement="--dtype"), "agreement: must be a list of texts (got '--dtype'). Write [a, b]."),
        (minimal(reserved={"both": []}), "reserved.both: there is no such key. Known: always, agg, disagg."),
        (minimal(reserved={"agg": [3]}), "reserved.agg[0]: must be a text (got 3). Put quotes around it."),
        (
            minimal(defaults={"max_batch_size": 0}),
            "defaults.max_batch_size: it must be at least 1 (got 0). Write 1 or more.",
        ),
        (
            minimal(role_defaults={"encode": {}}),
            "role_defaults.encode: there is no such key. Known: agg, prefill, decode.",
        ),
        (
            minimal(served_name={":": {"reason": "r"}}),
            "served_name.':'.fix: required, but missing. Add it.",
        ),
        (
            minimal(limits={}),
            "limits.timeout_seconds: has no default and is not refused. Say it in limits or in limits_refused.",
        ),
        (
            minimal(limits={"timeout_seconds": 0}),
            "limits.timeout_seconds: it must be at least 1 (got 0). Write 1 or more.",
        ),
        (
            minimal(limits={"timeout_seconds": None}),
            "limits.timeout_seconds: a number of seconds is needed here. Write one, like 600.",
        ),
        (
            minimal(limits={"timeout_seconds": 60, "concurrency": 1}),
            "limits.concurrency: both has a default and is refused. Say it in limits or in limits_refused.",
        ),
        (
            minimal(limits_refused={**LIMITS["limits_refused"], "max_queue": "no"}),
            f"limits_refused.max_queue: must be a map (got 'no'). {A_MAP}",
        ),
        (entry({}), f"parameters.moe_backend: this does not say what it becomes. {ONE_FORM}"),
        (
            entry({"flag": "--x", "env": "X"}),
            f"parameters.moe_backend: this does not say what it becomes (got 'flag, env'). {ONE_FORM}",
        ),
        (
            entry({"flag": "--x", "flg": 1}),
            f"parameters.moe_backend.flg: there is no such key. Known: {ENTRY_KEYS}.",
        ),
        (entry(3), f"parameters.moe_backend: must be a map (got 3). {A_MAP}"),
        (
            entry("moe x"),
            "parameters.moe_backend.flag: a flag begins with - and has no spaces (got 'moe x'). Correct it.",
        ),
        (
            entry({"env": "A-B"}),
            "parameters.moe_backend.env: a variable has letters, digits and _ only (got 'A-B'). Correct it.",
        ),
        (
            entry({"setting": "a..b"}),
            "parameters.moe_backend.setting: a setting is names with dots between them (got 'a..b'). Correct it.",
        ),
        (
            entry({"flag": "--x", "notes": {"a": None}}),
            "parameters.moe_backend.notes.a: must be a text. Put quotes around it.",
        ),
        (
            entry({"flag": "--x", "values": {"a": ["b"]}}),
            "parameters.moe_backend.values.a: must be a text or a number (got ['b']). Put quotes around it.",
        ),
        (
            entry({"when": {True: [1]}}),
            "parameters.moe_backend.when.true[0]: must be a text (got 1). Put quotes around it.",
        ),
        (
            entry({"when": {"a": {"b": []}}}),
            "parameters.moe_backend.when.a.b: must be a text, a number or null (got []). Write one value.",
        ),
        (
            entry({"flag": "--x", "list": "comma"}),
            "parameters.moe_backend.list: only spread is known (got 'comma'). Write spread or leave it out.",
        ),
        (
            entry({"flag": "--x", "mode": "both"}),
            "parameters.moe_backend.mode: this mode does not exist (got 'both'). Use agg or disagg.",
        ),
    ],
)
def test_a_malformed_table_is_refused_at_its_place(document, problem):
    with pytest.raises(Refused) as refused:
        parse_mapping(document, "mine.yaml")

    assert f"mine.yaml: {problem}" in [str(found) for found in refused.value.problems]


def test_every_parameter_needs_an_answer_and_all_mistakes_are_told_at_once():
    with pytest.raises(Refused) as refused:
        parse_mapping(minimal(parameters={"max_batch_size": "--x", "zebra": "--x"}), "mine.yaml")

    paths = {problem.path for problem in refused.value.problems}
    assert paths >= {"mine.yaml: parameters.zebra", "mine.yaml: parameters.tensor_parallel_size"}
    assert "mine.yaml: parameters.max_batch_size" not in paths


def test_a_table_takes_from_the_one_it_extends_what_it_does_not_say():
    old = minimal(version="1", parameters={"max_batch_size": "--a", "max_seq_len": "--b"})
    new = {"extends": "1", "version": "2", "parameters": {"max_seq_len": "--c"}}

    merged = extend("2", {"1": old, "2": new}, "mine.yaml")

    assert merged["version"] == "2"
    assert merged["image"] == "i"
    assert merged["lineage"] == ["2", "1"]
    assert merged["parameters"] == {"max_batch_size": "--a", "max_seq_len": "--c"}


@pytest.mark.parametrize(
    ("documents", "problem"),
    [
        ({"2": {"extends": "1"}}, "mine.yaml: extends: this version cannot be extended (got '1'). Use one of: none."),
        ({"2": {"extends": "2"}}, "mine.yaml: extends: this version cannot be extended (got '2'). Use one of: none."),
        ({"2": {"extends": 1}, "1": {}}, "mine.yaml: extends: this version cannot be extended (got 1). Use one of: 1."),
        ({"2": []}, "mine.yaml: a mapping file is a map (got []). Begin with backend:."),
        (
            {"2": {"parameters": [1]}},
            f"mine.yaml: parameters: must be a map (got [1]). {A_MAP}",
        ),
    ],
)
def test_a_table_that_extends_nothing_or_itself_is_refused(documents, problem):
    with pytest.raises(Refused) as refused:
        extend("2", documents, "mine.yaml")

    assert str(refused.value) == problem


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("mapping.1.yaml", "a: [", "templates/b/mapping.1.yaml: malformed mapping file: "),
        ("mapping.1.yaml", "[]", "templates/b/mapping.1.yaml: a mapping file is a map"),
        ("mapping.2.yaml", yaml.safe_dump(minimal()), "templates/b/mapping.2.yaml: the file's name says otherwise"),
        ("mapping.1.yaml", yaml.safe_dump(minimal()), "templates/b: exactly one mapping must say preferred"),
        ("cli_args.1.j2", "- {{", "templates/b/cli_args.1.j2:1: malformed template"),
    ],
)
def test_a_broken_data_file_is_named(tmp_path, name, text, problem):
    (tmp_path / "b").mkdir()
    good = yaml.safe_dump(minimal(preferred=True) | {"lineage": None})
    (tmp_path / "b" / "mapping.1.yaml").write_text(good)
    (tmp_path / "b" / name).write_text(text)

    with pytest.raises(Refused) as refused:
        load_library(templates_dir=tmp_path).complete()

    assert str(refused.value).startswith(problem)


@pytest.mark.parametrize(("backend", "name"), SHIPPED)
def test_shipped_files_say_the_same_to_the_reader_of_users_files(backend, name):
    text = (data_dir("templates") / backend / name).read_text(encoding="utf-8")

    def plain(value):
        if isinstance(value, dict):
            return {str(key).lower() if isinstance(key, bool) else str(key): plain(item) for key, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, list) else value

    assert read_data(text, name) == plain(yaml.safe_load(text))


JUNK = st.sampled_from(
    [
        None,
        True,
        0,
        -1,
        1.5,
        "",
        "x",
        "--x",
        "a b",
        "$(id)",
        [],
        ["x"],
        [1],
        [[]],
        {},
        {"x": 1},
        {"x": {"y": []}},
        {"x": ["y"]},
    ]
)


@st.composite
def broken_files(draw):
    """A shipped mapping file with some of its values replaced, removed or added to."""
    backend, name = draw(st.sampled_from([item for item in SHIPPED if item[1] not in ("mapping.0.32.0.yaml",)]))
    document = yaml.safe_load((data_dir("templates") / backend / name).read_text(encoding="utf-8"))
    for _ in range(draw(st.integers(1, 3))):
        node = document
        while isinstance(node, dict | list) and node:
            key = draw(st.sampled_from(sorted(node, key=str) if isinstance(node, dict) else range(len(node))))
            if not isinstance(node[key], dict | list) or not node[key] or draw(st.integers(0, 2)) == 0:
                change = draw(st.sampled_from(["put", "remove", "add"]))
                if change == "put" or not isinstance(node, dict):
                    node[key] = copy.deepcopy(draw(JUNK))  # what is put in may be changed by the next turn
                elif change == "remove":
                    del node[key]
                else:
                    node[draw(st.sampled_from(["x", "flag", "when", "mode", "zebra"]))] = copy.deepcopy(draw(JUNK))
                break
            node = node[key]
    return backend, yaml.safe_dump(document)


MANY = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
MINIMAL = {"ServiceConfig": {"model_path": "org/model", "served_model_name": "model"}}


def used(path, backend, library):
    """What becomes of an input with the mapping file; anything but `Refused` gets out and fails the test."""
    try:
        mine, _ = with_mapping_of(library, path, backend)
        params = generate_config_from_input_dict(copy.deepcopy(MINIMAL), backend=backend, library=mine)
        return generate_backend_artifacts(params, backend, library=library, mapping_path=path)
    except Refused as refused:
        return refused


@MANY
@given(file=broken_files())
def test_any_mapping_file_gives_artifacts_or_located_mistakes(tmp_path_factory, library, file):
    backend, text = file
    path = tmp_path_factory.mktemp("mapping") / "mine.yaml"
    path.write_text(text)

    found = used(path, backend, library)

    if isinstance(found, Refused):
        assert all(problem.path and problem.reason and problem.fix for problem in found.problems)


@MANY
@given(
    text=st.text(max_size=80) | st.sampled_from(["[" * 5000, "a: &a [*a]", "vllm: {run.sh.j2: '{{'}", "- 1\n---\n- 2"])
)
def test_any_text_as_a_mapping_file_gives_artifacts_or_located_mistakes(tmp_path_factory, library, text):
    path = tmp_path_factory.mktemp("mapping") / "mine.yaml"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")

    found = used(path, "vllm", library)

    assert isinstance(found, Refused)
    assert all(str(path) in problem.path and problem.reason for problem in found.problems)
