"""Objects as YAML: every parser reads the same, old and new."""

import re

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem.manifests.model import Build
from tandem.manifests.yaml_out import to_yaml

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner),
    max_leaves=10,
)


def text(*objects):
    return to_yaml(Build(objects, (), (), (), ""))


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.sampled_from("abc"), JSON))
def test_any_json_is_read_back(value):
    assert list(yaml.safe_load_all(text(value, value))) == [value, value]


@pytest.mark.parametrize(
    "value",
    [
        "1e3",
        "0o17",
        "0x10",
        "1_000",
        "0.33.0",
        "12:30",
        "yes",
        "No",
        "y",
        "null",
        "~",
        "-",
        "",
        " a",
        ".5",
        ".inf",
        "a: b",
    ],
)
def test_a_text_that_some_parser_takes_for_something_else_is_quoted(value):
    assert text({"a": value}) == f"---\na: '{value}'\n"


@pytest.mark.parametrize(
    "value", ["qwen", "/models/qwen", "--max-num-seqs", "apps/v1", "nvidia.com/gpu", "RollingUpdate"]
)
def test_plain_texts_stay_plain(value):
    assert text({"a": value}) == f"---\na: {value}\n"


def test_files_are_shown_as_they_are():
    assert text({"config.yml": "a: 1\nb: 2\n"}) == "---\nconfig.yml: |\n  a: 1\n  b: 2\n"


def test_keys_are_sorted_and_nothing_is_an_alias():
    shared = {"b": 1, "a": 2}

    shown = text({"d": shared, "c": shared})

    assert shown == "---\nc:\n  a: 2\n  b: 1\nd:\n  a: 2\n  b: 1\n"
    assert not re.search(r"[&*]id", shown)
