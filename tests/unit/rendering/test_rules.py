"""Rule files: the grammar, and every malformed line located."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.api.problems import Refused
from tandem.rendering.mapping import PARAMETER_NAMES
from tandem.rendering.rules import CONTEXT_NAMES, parse_rules

NOTHING = dict.fromkeys((*PARAMETER_NAMES, *CONTEXT_NAMES))


def results(text, role="agg", **values):
    rules = parse_rules(text, "test.rule")
    return [(line.name, value) for line, value in rules.assignments(role, {**NOTHING, "role": role, **values})]


def mistakes(text):
    with pytest.raises(Refused) as refused:
        parse_rules(text, "test.rule")
    return [str(problem) for problem in refused.value.problems]


def test_s0_36_an_unscoped_line_is_for_every_role():
    for role in ("agg", "prefill", "decode"):
        assert results("max_batch_size = 7", role) == [("max_batch_size", 7)]


@pytest.mark.parametrize(
    ("scope", "roles"),
    [("prefill", {"prefill"}), ("agg_decode", {"agg", "decode"}), ("prefill_decode_agg", {"agg", "prefill", "decode"})],
)
def test_s0_36_a_scoped_line_is_for_its_roles(scope, roles):
    held = {role for role in ("agg", "prefill", "decode") if results(f"{scope} max_batch_size = 7", role)}

    assert held == roles


def test_s0_36_whens_nest_by_indentation_and_all_must_hold():
    text = """
# a comment
when mode == "disagg":   # another
    when isl > 1000:
        prefill max_num_tokens = isl + 1500
    max_seq_len = 10;
max_batch_size = 1
"""
    assert results(text, "prefill", mode="disagg", isl=4000) == [
        ("max_num_tokens", 5500),
        ("max_seq_len", 10),
        ("max_batch_size", 1),
    ]
    assert results(text, "prefill", mode="disagg", isl=10) == [("max_seq_len", 10), ("max_batch_size", 1)]
    assert results(text, "decode", mode="disagg", isl=4000) == [("max_seq_len", 10), ("max_batch_size", 1)]
    assert results(text, "prefill", mode="agg", isl=4000) == [("max_batch_size", 1)]


def test_a_condition_that_does_not_hold_is_not_followed_into_its_lines():
    assert results("when isl:\n    max_num_tokens = isl + 1") == []


def test_a_hash_inside_quotes_is_no_comment():
    assert results("when mode == '#':\n  max_batch_size = 1", mode="#") == [("max_batch_size", 1)]


@pytest.mark.parametrize(
    ("text", "where", "reason"),
    [
        ("when isl", "test.rule:1:1", "a `when` ends with a colon"),
        ("when isl:", "test.rule:1:1", "nothing is indented below this `when`"),
        ("when isl:\nmax_batch_size = 1", "test.rule:2:1", "the `when` above has no indented line"),
        ("when :\n  max_batch_size = 1", "test.rule:1:6", "not an expression"),
        ("\tmax_batch_size = 1", "test.rule:1:1", "tabs are not allowed"),
        ("  max_batch_size = 1", "test.rule:1:3", "indented by 2 spaces, but its block by 0"),
        (
            "when isl:\n    max_batch_size = 1\n  max_batch_size = 2",
            "test.rule:3:3",
            "indented by 2 spaces, but its block by 4",
        ),
        ("else:", "test.rule:1:1", "else does not exist here"),
        ("if isl:", "test.rule:1:1", "if does not exist here"),
        ("max_bach_size = 1", "test.rule:1:1", "no parameter of this name"),
        ("prefil max_batch_size = 1", "test.rule:1:1", "there is no role 'prefil'"),
        ("prefill_ max_batch_size = 1", "test.rule:1:1", "there is no role ''"),
        ("max_batch_size == 1", "test.rule:1:1", "not a rule"),
        ("max_batch_size", "test.rule:1:1", "not a rule"),
        ("isl = 1", "test.rule:1:1", "no parameter of this name"),
        ("max_batch_size = ", "test.rule:1:17", "not an expression"),
        ("max_batch_size = 1 + isll", "test.rule:1:22", "there is no name isll; did you mean isl?"),
        ("when isl > zz:\n  max_batch_size = 1", "test.rule:1:12", "there is no name zz"),
        ("max_batch_size = isl.__class__", "test.rule:1:18", "dots are not allowed"),
        ("x" * 70_000, "test.rule", "the rule file is too long"),
    ],
)
def test_s0_36_every_malformed_line_is_located(text, where, reason):
    found = mistakes(text)

    assert found[0].startswith(f"{where}: ")
    assert reason in found[0]


def test_all_mistakes_of_a_file_are_told_at_once():
    assert len(mistakes("max_bach_size = 1\nprefil max_batch_size = 1\nwhen x:\n  max_batch_size = 1")) == 3


def test_a_rule_that_fails_on_its_values_is_located():
    with pytest.raises(Refused) as refused:
        results("\nmax_num_tokens = isl + 1500")

    assert str(refused.value).startswith("test.rule:2:18: the rule fails: + needs numbers, but here is no value")


LINES = st.sampled_from(
    [
        "when isl:",
        "when mode == 'agg':",
        "    max_batch_size = 1",
        "        max_num_tokens = isl + 1",
        "prefill max_batch_size = 3",
        "else:",
        "",
        "# x",
        "  \t x",
        "max_batch_size = (",
    ]
)


def places(text):
    """Where the mistakes of a file are; anything but `Refused` gets out and fails the test."""
    try:
        list(parse_rules(text, "test.rule").assignments("agg", NOTHING))
    except Refused as refused:
        return [problem.path for problem in refused.problems]
    return []


@given(st.one_of(st.text(max_size=200), st.lists(LINES, max_size=8).map("\n".join)))
def test_any_text_gives_rules_or_located_mistakes(text):
    assert all(place.startswith("test.rule") for place in places(text))
