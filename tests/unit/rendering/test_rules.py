"""Rule files: the grammar, and every malformed line located."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.api.problems import Refused
from tandem.rendering.evaluation import evaluate_rules
from tandem.rendering.mapping import PARAMETER_NAMES
from tandem.rendering.rules import MAX_NESTED, MAX_PROBLEMS, parse_rules
from tandem.rendering.vocabulary import CONTEXT_NAMES, NAMES

NOTHING = dict.fromkeys((*PARAMETER_NAMES, *CONTEXT_NAMES))


def hits(text, role="agg", given=(), **values):
    rules = parse_rules(text, "test.rule")
    return evaluate_rules(rules, role=role, values={**NOTHING, "role": role, **values}, given=given)


def results(text, role="agg", **values):
    return [(hit.name, hit.value) for hit in hits(text, role, **values) if hit.outcome == "applied"]


def mistakes(text):
    with pytest.raises(Refused) as refused:
        parse_rules(text, "test.rule")
    return refused.value.problems


def test_s0_36_an_unscoped_line_is_for_every_role():
    for role in ("agg", "prefill", "decode"):
        assert results("max_batch_size = 7", role) == [("max_batch_size", 7)]


@pytest.mark.parametrize(
    ("scope", "roles"),
    [
        ("prefill", {"prefill"}),
        ("agg_decode", {"agg", "decode"}),
        ("decode_agg", {"agg", "decode"}),
        ("prefill_decode_agg", {"agg", "prefill", "decode"}),
    ],
)
def test_s0_36_a_scoped_line_is_for_its_roles(scope, roles):
    held = {role for role in ("agg", "prefill", "decode") if results(f"{scope} max_batch_size = 7", role)}

    assert held == roles


def test_s0_36_an_unscoped_when_sees_each_role_by_itself():
    text = "when max_batch_size > 100:\n    max_num_tokens = 9"

    assert results(text, "prefill", max_batch_size=1) == []
    assert results(text, "decode", max_batch_size=128) == [("max_num_tokens", 9)]


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


def test_s0_36_bare_isl_is_the_length_of_a_prompt_and_not_of_a_sequence():
    assert results("max_num_tokens = isl + 1500", isl=4000, max_seq_len=9) == [("max_num_tokens", 5500)]


@pytest.mark.parametrize(
    ("alias", "value"),
    [
        ("bs", ("max_batch_size", 64)),
        ("SlaConfig.isl", ("isl", 64)),
        ("SlaConfig.osl", ("osl", 64)),
        ("ModelConfig.nextn", ("nextn", 64)),
    ],
)
def test_s0_36_names_of_the_reference_generator_are_read(alias, value):
    name, number = value

    assert results(f"max_num_tokens = {alias} + 1", **{name: number}) == [("max_num_tokens", 65)]


def test_s0_36_every_parameter_and_fact_can_be_read():
    assert set(NAMES) >= {*PARAMETER_NAMES, *CONTEXT_NAMES, "DynConfig.mode", "ModelConfig.is_moe"}


def test_s0_36_conditions_of_the_reference_generator_keep_their_meaning():
    text = """
when (ModelConfig.nextn or 0) > 0:
    disable_prefix_cache = false
when DynConfig.mode == 'agg':
    max_batch_size = (max_batch_size if max_batch_size else 1)
"""

    assert results(text, nextn=5, mode="disagg") == [("disable_prefix_cache", False)]
    assert results(text, nextn=None, mode="agg") == [("max_batch_size", 1)]


def test_a_condition_that_does_not_hold_is_not_followed_into_its_lines():
    assert results("when isl:\n    max_num_tokens = isl + 1") == []


def test_a_when_is_decided_once_for_all_its_lines():
    text = "when max_batch_size > 100:\n    max_batch_size = 50\n    max_num_tokens = max_batch_size"

    assert results(text, max_batch_size=128) == [("max_batch_size", 50), ("max_num_tokens", 50)]


def test_a_hash_inside_quotes_is_no_comment():
    assert results("when attention_backend == '#':\n  max_batch_size = 1", attention_backend="#")


def test_lines_may_end_as_windows_writes_them():
    assert results("when isl:\r\n  max_batch_size = 1\r\n", isl=1) == [("max_batch_size", 1)]


# A text, where its first mistake is, and the beginnings of what is told of it.
MALFORMED = [
    ("when isl", "1:1", "when isl", "a `when` ends with a colon", "Write `when EXPR:`"),
    ("when isl: max_batch_size = 1", "1:1", "when isl: max", "a `when` ends with a colon", "on the next lines"),
    ("when isl:", "1:1", "when", "nothing is indented below this `when`", "Indent the lines"),
    ("when isl:\nmax_batch_size = 1", "1:1", "when", "nothing is indented below", "Indent the lines"),
    ("when :\n  max_batch_size = 1", "1:6", "", "a value is missing here", "Write a number"),
    ("\tmax_batch_size = 1", "1:1", "a tab", "tabs do not indent here", "Indent with spaces"),
    ("when isl:\n\tmax_batch_size = 1", "2:1", "a tab", "tabs do not indent here", "Indent with spaces"),
    ("  max_batch_size = 1", "1:3", "max_batch", "indented by 2 spaces", "Indent it by 0 spaces"),
    (
        *("when isl:\n    max_batch_size = 1\n  max_batch_size = 2", "3:3", "max_batch"),
        *("indented by 2 spaces, but the lines around it by 4", "Indent it by 4 spaces"),
    ),
    ("else:", "1:1", "else:", "else does not exist here", "another `when`, with `not`"),
    ("if isl:", "1:1", "if isl:", "if does not exist here", "Write `when EXPR:`"),
    ("for x in isl:", "1:1", "for x", "for does not exist here", "no loops"),
    ("while true:", "1:1", "while true:", "while does not exist here", "no loops"),
    ("import os", "1:1", "import os", "import does not exist here", "only sets a parameter"),
    ("from os import path", "1:1", "from os", "from does not exist here", "only sets a parameter"),
    ("max_bach_size = 1", "1:1", "max_bach_size", "no parameter of this name", "Did you mean max_batch_size?"),
    ("zebra = 1", "1:1", "zebra", "no parameter of this name", "Known: tensor_parallel_size"),
    ("prefil max_batch_size = 1", "1:1", "prefil", "there is no role prefil", "Roles are agg, prefill, decode"),
    ("encode max_batch_size = 1", "1:1", "encode", "there is no role encode", "Roles are agg, prefill, decode"),
    ("agg_encode bs = 1", "1:1", "agg_encode", "there is no role encode", "Roles are agg, prefill, decode"),
    ("prefill_ max_batch_size = 1", "1:1", "prefill_", "a role is missing beside a _", "Roles are agg"),
    ("agg_agg max_batch_size = 1", "1:1", "agg_agg", "a role is named twice", "Name each role once"),
    ("prefill, decode max_batch_size = 1", "1:1", "prefill, decode", "this is no rule", "Write `when EXPR:`"),
    ("prefill decode max_batch_size = 1", "1:1", "prefill decode", "this is no rule", "Write `when EXPR:`"),
    ("max_batch_size == 1", "1:1", "max_batch_size ==", "this is no rule", "NAME = EXPR"),
    ("max_batch_size += 1", "1:1", "max_batch_size +=", "this is no rule", "NAME = EXPR"),
    ("max_batch_size", "1:1", "max_batch_size", "this is no rule", "NAME = EXPR"),
    ("= 1", "1:1", "= 1", "this is no rule", "NAME = EXPR"),
    ("{% set x = 1 %}", "1:1", "{% set", "this is no rule", "NAME = EXPR"),
    ("isl = 1", "1:1", "isl", "isl is a fact that rules read and cannot change", "in the ModelDeployment"),
    ("agg bs = 1", "1:5", "bs", "bs is a short name for reading", "Write max_batch_size."),
    ("gpus_per_worker = 1", "1:1", "gpus_per_worker", "is no parameter", "follow from its parallel sizes"),
    ("DynConfig.enable_router = true", "1:1", "DynConfig.enable_router", "rules set engine parameters", "Remove"),
    ("K8sConfig.k8s_image = 'x'", "1:1", "K8sConfig.k8s_image", "rules set engine parameters", "Remove"),
    ("DynConfig.mode = 'agg'", "1:1", "DynConfig.mode", "a fact that rules read", "in the ModelDeployment"),
    ("max_batch_size = ", "1:17", "", "a value is missing here", "Write a number"),
    ("max_batch_size = 1 + isll", "1:22", "isll", "there is no name isll", "Did you mean isl?"),
    ("  # x\nmax_batch_size =   1 +", "2:23", "", "a value is missing here", "Write a number"),
    ("when isl > zz:\n  max_batch_size = 1", "1:12", "zz", "there is no name zz", "Known: "),
    ("when role == 'prefil':\n  max_batch_size = 1", "1:14", "prefil", "role is never 'prefil'", "one of: agg"),
    ("max_batch_size = isl.__class__", "1:18", "isl.__class__", "there is no name", "Names are flat"),
    ("max_batch_size = params.agg.bs", "1:18", "params.agg.bs", "there is no name", "Names are flat"),
    ("max_batch_size = 1; max_seq_len = 2", "1:19", "; max_seq", "a line holds one rule", "line of its own"),
    ("max_batch_size = 1\x85", "1:19", "\\x85", "a character that cannot be seen", "Remove it"),
    ("# x\u2028max_batch_size = 1", "1:4", "\\u2028", "a character that cannot be seen", "Remove it"),
    ("\ufeffmax_batch_size = 1", "1:1", "\\ufeff", "a character that cannot be seen", "Remove it"),
]
# All that is told of each of these texts, word for word.
EXACTLY = json.loads((Path(__file__).parent / "malformed_rules.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(("text", "where", "value", "reason", "fix"), MALFORMED)
def test_s0_36_every_malformed_line_is_located(text, where, value, reason, fix):
    found = mistakes(text)[0]

    assert found.path == f"test.rule:{where}"
    assert found.value.startswith(value)
    assert reason in found.reason
    assert fix in found.fix


@pytest.mark.parametrize("text", [text for text, *_ in MALFORMED])
def test_s0_36_every_malformed_line_is_told_word_for_word(text):
    assert [str(problem) for problem in mistakes(text)] == EXACTLY[text]


def test_s0_36_deep_nesting_and_long_files_are_refused():
    deep = "\n".join(" " * level + "when isl:" for level in range(30)) + "\n" + " " * 30 + "max_batch_size = 1"

    assert mistakes(deep)[0].reason == f"more than {MAX_NESTED} `when` inside each other"
    assert mistakes(deep)[0].path == "test.rule:17:17"
    assert mistakes("x" * 70_000)[0].reason == "the rule file is too long"


def test_mistakes_of_a_file_are_told_at_once_and_not_without_end():
    assert len(mistakes("max_bach_size = 1\nprefil max_batch_size = 1\nwhen x:\n  max_batch_size = 1")) == 3
    assert len(mistakes("x\n" * 30_000)) == MAX_PROBLEMS


def test_a_rule_that_fails_on_its_values_is_located():
    with pytest.raises(Refused) as refused:
        results("\nmax_num_tokens = isl + 1500")

    assert str(refused.value) == (
        "test.rule:2:22: the rule fails: + needs numbers, but here is no value (got isl + 1500). "
        "Guard it: `when NAME:` above, or (NAME or 0)."
    )


def test_a_condition_that_fails_on_its_values_is_located():
    with pytest.raises(Refused) as refused:
        results("when isl > 7:\n    max_num_tokens = 1")

    assert str(refused.value).startswith("test.rule:1:10: the rule fails: > cannot compare no value with 7")


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        ("max_batch_size = 0", "cannot have: it must be at least 1 (got 0)"),
        ("max_batch_size = isl / 3", "cannot have: a whole number is needed here (got 1.0)"),
        ("max_batch_size = true", "cannot have: a whole number is needed here (got True)"),
        ("max_batch_size = 'x'", "cannot have: a whole number is needed here (got 'x')"),
        ("kv_cache_dtype = 'fp9'", "cannot have: only auto, float16"),
        ("cuda_graph_batch_sizes = []", "cuda_graph_batch_sizes cannot have"),
    ],
)
def test_a_value_that_the_parameter_cannot_have_is_located(rule, reason):
    with pytest.raises(Refused) as refused:
        results(rule, isl=3)

    assert str(refused.value).startswith("test.rule:1:")
    assert reason in str(refused.value)


def test_of_two_lines_for_one_parameter_the_later_wins_and_the_trace_shows_both():
    found = hits("max_batch_size = 7\nmax_num_tokens = max_batch_size\nmax_batch_size = max_batch_size + 1")

    assert [(hit.name, hit.value, hit.outcome) for hit in found] == [
        ("max_batch_size", 7, "replaced"),
        ("max_num_tokens", 7, "applied"),
        ("max_batch_size", 8, "applied"),
    ]


def test_a_line_that_gives_nothing_leaves_the_earlier_one():
    found = hits("max_batch_size = 7\nmax_batch_size = isl")

    assert [(hit.value, hit.outcome) for hit in found] == [(7, "applied"), (None, "empty")]


def test_a_users_value_wins_and_the_trace_shows_what_the_rule_would_have_given():
    found = hits("max_batch_size = 7\nmax_num_tokens = max_batch_size", given={"max_batch_size"}, max_batch_size=3)

    assert [(hit.value, hit.outcome) for hit in found] == [(7, "overridden"), (3, "applied")]


def test_a_rule_that_fails_where_the_users_value_wins_concerns_nobody():
    (found,) = hits("max_batch_size = isl + 1", given={"max_batch_size"}, max_batch_size=3)

    assert (found.value, found.outcome) == (None, "overridden")


def test_the_trace_names_the_conditions_that_held_and_the_one_that_did_not():
    text = 'when isl:\n    when mode == "agg":\n        max_batch_size = isl * 2\n    max_seq_len = 9'

    (first, second) = hits(text, isl=4, mode="disagg")
    (held, _) = hits(text, isl=4, mode="agg")

    assert (first.location, first.outcome, first.value) == ("test.rule:3", "skipped", None)
    assert first.held == ("test.rule:1: when isl",)
    assert first.failed == 'test.rule:2: when mode == "agg"'
    assert (second.outcome, second.failed) == ("applied", "")
    assert held.held == ("test.rule:1: when isl", 'test.rule:2: when mode == "agg"')
    assert (held.expression, held.value) == ("isl * 2", 8)


def test_evaluation_leaves_its_input_untouched():
    rules = parse_rules("max_batch_size = (max_batch_size or 256) * 2", "test.rule")
    values = dict(NOTHING)

    first = evaluate_rules(rules, role="agg", values=values, given=())

    assert values == NOTHING
    assert first == evaluate_rules(rules, role="agg", values=values, given=())


LINES = st.sampled_from(
    [
        *("when isl:", "when mode == 'agg':", "  when not isl:", "    when bs > 1:", "else:", "", "# x", "  \t x"),
        *("max_batch_size = isl", "    max_batch_size = 1", "        max_num_tokens = isl + 1", "  bs = 1"),
        *("prefill max_batch_size = 3", "agg_encode max_seq_len = 1", "max_batch_size = (", "max_seq_len = range(9)"),
        *("cuda_graph_batch_sizes = range(1, (bs or 0) + 1)", "kv_cache_dtype = 'fp8';", "x = {{ y }}", "\u2028"),
    ]
)


def places(text, values):
    """Where the mistakes of a file are; anything but `Refused` gets out and fails the test."""
    try:
        for role in ("agg", "prefill", "decode"):
            evaluate_rules(parse_rules(text, "test.rule"), role=role, values={**NOTHING, **values}, given=())
    except Refused as refused:
        return refused.problems
    return ()


@given(
    st.one_of(st.text(max_size=200), st.lists(LINES, max_size=8).map("\n".join)),
    st.fixed_dictionaries({}, optional={"isl": st.integers(1, 10**6), "max_batch_size": st.integers(1, 2000)}),
)
def test_s0_40_any_text_gives_rules_or_located_mistakes(text, values):
    lines = text.split("\n")
    for problem in places(text, values):
        name, line, column = problem.path.split(":")
        assert name == "test.rule"
        assert 1 <= int(column) <= len(lines[int(line) - 1]) + 1
        assert problem.reason
        assert problem.fix


@pytest.mark.parametrize(
    "expression",
    [
        "cycler.__init__.__globals__.os.popen('id -u').read()",
        "max_batch_size.__class__.__mro__",
        "().__class__.__bases__[0].__subclasses__()",
        "__import__('os').system('id')",
        "namespace(x=1)",
        "lipsum | attr('__globals__')",
        "self._TemplateReference__context",
        "[x for x in range(9)]",
        "(lambda: 1)()",
        "{{ 1 }}",
        "1" + " + 1" * 200,
        "(" * 60 + "1" + ")" * 60,
        "range(999999999) | length",
        "9 ** 9 ** 9",
        "round(1, -999999999)",
        "'a' * 999999999",
    ],
)
@pytest.mark.parametrize("form", ["max_batch_size = {}", "when {}:\n    max_batch_size = 1"])
def test_s0_40_rules_reach_nothing_and_cost_nothing(form, expression):
    text = form.format(expression)

    with pytest.raises(Refused) as refused:
        hits(text)

    assert all(problem.path.startswith("test.rule:1:") for problem in refused.value.problems)


def test_s0_40_the_largest_files_are_worked_out_at_once():
    heavy = "max_batch_size = " + " + ".join(["len(range(999))"] * 26)
    text = "\n".join([heavy] * 130)

    assert len(hits(text)) == 130
    assert len(hits("\n".join(["max_batch_size = 1" + " + 1" * 100] * 150))) == 150
