"""The expressions of rules: small, bounded, and nothing of the interpreter within reach."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2.nativetypes import NativeEnvironment

from tandem.rendering.expressions import MAX_DEPTH, Name, compile_expression
from tandem.rendering.operations import MAX_LIST, MAX_NUMBER
from tandem.rendering.tokens import MAX_EXPRESSION_CHARACTERS, ExpressionError

VALUES = {"isl": 4000, "bs": 64, "mode": "disagg", "unset": None, "flag": True, "sizes": (1, 2), "share": 0.5}
NAMES = {name: Name(name, ("agg", "disagg") if name == "mode" else ()) for name in VALUES}
NAMES["SlaConfig.isl"] = NAMES["isl"]


def evaluate(text):
    return compile_expression(text, NAMES)(VALUES)


def mistake(text):
    with pytest.raises(ExpressionError) as error:
        evaluate(text)
    return error.value


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("isl + 1500", 5500),
        ("2 * bs + 1500", 1628),
        ("2 + bs * 2 - 1", 129),
        ("(2 + bs) * 2", 132),
        ("10 - 3 - 2", 5),
        ("100 // 7 % 4", 2),
        ("-bs // 7", -10),
        ("--3", 3),
        ("---3", -3),
        ("2 - -3", 5),
        ("bs / 128", 0.5),
        ("bs % 10", 4),
        ("1e3 + 2.5", 1002.5),
        ("max(bs, 100, isl)", 4000),
        ("min(bs, 100)", 64),
        ("max(sizes)", 2),
        ("(unset or 0) + 7", 7),
        ("unset | default(3)", 3),
        ("default(bs, 3)", 64),
        ("1 if unset is none else 2", 1),
        ("1 if flag else 2 if bs else 3", 1),
        ("bs is not none", True),
        ("flag is true", True),
        ("not unset is none", False),
        ("bs == 64 and unset is none", True),
        ("unset is none is true", True),
        ("mode == 'disagg' and flag", True),
        ("mode != 'agg' or bs > 1000", True),
        ("not flag", False),
        ("not not flag", True),
        ("not bs > 100 and flag", True),
        ("0 < bs <= 64", True),
        ("0 < bs < 64", False),
        ("unset == 3", False),
        ("unset != 3", True),
        ("mode in ['agg', 'disagg']", True),
        ('mode in ("agg", "disagg")', True),
        ("bs not in sizes", True),
        ("unset in [1, 2]", False),
        ("range(1, 4)", [1, 2, 3]),
        ("range(1, 4) | list", [1, 2, 3]),
        ("(range(3) | list) + (range(2, 5) | list) | list", [0, 1, 2, 2, 3, 4]),
        ("(range(3) + range(2, 5)) | unique", [0, 1, 2, 3, 4]),
        ("[3, 1, 2] | sort", [1, 2, 3]),
        ("[bs, isl,]", [64, 4000]),
        ("(bs,)", [64]),
        ("[]", []),
        ("len(sizes)", 2),
        ("sizes | length", 2),
        ("int(bs / 3)", 21),
        ("bs / 3 | int", 64 / 3),
        ("(bs / 3) | int", 21),
        ("round(2.6)", 3),
        ("abs(0 - 3)", 3),
        ("-3 | abs", 3),
        ("True and true and not False and none is None", True),
        ("'text'", "text"),
        ('"it\'s"', "it's"),
        ("SlaConfig.isl + 1", 4001),
    ],
)
def test_the_small_language_computes(text, expected):
    assert evaluate(text) == expected


@pytest.mark.parametrize(
    ("text", "reason", "column", "offending", "hint"),
    [
        ("().__class__", "a value is missing here", 1, ")", "Write a number"),
        ("isl.__class__", "there is no name isl.__class__", 0, "isl.__class__", "Names are flat"),
        ("'a'.upper()", "the expression should end here", 3, ".", "Names are flat"),
        ("cycler.__init__.__globals__.os.popen('id')", "there is no function", 0, "cycler.__init__", "Known: min"),
        ("WorkerConfig.isl", "there is no name WorkerConfig.isl", 0, "WorkerConfig.isl", "Did you mean isl?"),
        ("__import__('os')", "there is no function __import__", 0, "__import__", "Known: min, max"),
        ("open('/etc/passwd')", "there is no function open", 0, "open", "Known: min"),
        ("eval('1')", "there is no function eval", 0, "eval", "Known: min"),
        ("isl | attr('x')", "there is no function attr", 6, "attr", "Known: min"),
        ("flag(1)", "there is no function flag", 0, "flag", "Known: min"),
        ("(isl)(1)", "the expression should end here", 5, "(", "Only a function can be called"),
        ("min(1, key=2)", "there is no name key", 7, "key", "Known: "),
        ("min(*[1])", "a value is missing here", 4, "*", "Write a number"),
        ("min()", "min takes 1 or more values, not 0", 0, "min", "Give as many"),
        ("round(2, 1)", "round takes 1 value, not 2", 0, "round", "Give as many"),
        ("range(1, 2, 3, 4)", "range takes 1 to 3 values, not 4", 0, "range", "Give as many"),
        ("sizes[0]", "the expression should end here", 5, "[", "Nothing can be taken out of a list"),
        ("[x for x in sizes]", "there is no name x", 1, "x", "Known: "),
        ("[bs for bs in sizes]", "] is missing here", 4, "for", "There are no loops: write range(1, n + 1)"),
        ("lambda: 1", "`lambda` does not exist here", 0, "lambda", "Functions cannot be defined"),
        ("(bs := 3)", ") is missing here", 4, ":=", "rule of its own"),
        ("f'{bs}'", "there is no name f", 0, "f", "Known: "),
        ("{'a': 1}", "a value is missing here", 0, "{", "no dictionaries"),
        ("bs ~ 'x'", "the expression should end here", 3, "~", "Texts cannot be joined"),
        ("2 ** 99", "the expression should end here", 2, "**", "Powers do not exist"),
        ("bs || 1", "the expression should end here", 3, "||", "Write or."),
        ("bs && 1", "the expression should end here", 3, "&&", "Write and."),
        ("!flag", "a value is missing here", 0, "!", "Write not"),
        ("bs | 3", "after a bar comes the name of a function", 5, "3", "x | int"),
        ("bs is defined", "`is` is followed by none, true or false", 6, "defined", "is not none"),
        ("bs is not 3", "`is not` is followed by none", 10, "3", "or == for a value"),
        ("1 if flag", "an `if` without its `else`", 9, "", "a if c else b"),
        ("bs = 1", "the expression should end here", 3, "=", "Write == to compare"),
        ("1 + sizs", "there is no name sizs", 4, "sizs", "Did you mean sizes?"),
        ("1 + zebra", "there is no name zebra", 4, "zebra", "Known: bs, flag, isl, mode"),
        ("mode == 'dissag'", "mode is never 'dissag'", 8, "dissag", "It is one of: agg, disagg"),
        ("mode in ['agg', 'x']", "mode is never 'x'", 16, "x", "It is one of: agg, disagg"),
        ("1 +", "a value is missing here", 3, "", "Write a number"),
        ("", "a value is missing here", 0, "", "Write a number"),
        ("if", "a value is missing here", 0, "if", "other side"),
        ("1 2", "the expression should end here", 2, "2", "write an operator"),
        ("(1", ") is missing here", 2, "", "Add )"),
        ("[1", "] is missing here", 2, "", "Add ]"),
        ("1_000", "this is no number", 0, "1_000", "digits only"),
        ("0x10", "this is no number", 0, "0x10", "digits only"),
        ("1.", "this is no number", 0, "1.", "digits only"),
        ("1.5.2", "this is no number", 0, "1.5.2", "digits only"),
        ("'a", "a text without its closing quote", 0, "'a", "Add the closing quote"),
        (r"'a\n'", "a backslash has no meaning in a text", 0, r"'a\n'", "Leave it out"),
        ("1; 2", "a line holds one rule", 1, "; 2", "a line of its own"),
        ("isl + ﬁ", "this character means nothing here", 6, "ﬁ", "Leave it out"),
        ("1\x00", "this character means nothing here", 1, "\x00", "Leave it out"),
        ("é + 1", "this character means nothing here", 0, "é", "Leave it out"),
        ("9" * 40, "the number is too large", 0, "9" * 40, "2 ** 63"),
        ("1e999", "the number is too large", 0, "1e999", "2 ** 63"),
    ],
)
def test_s0_40_anything_else_is_refused_at_its_column_with_a_hint(text, reason, column, offending, hint):
    found = mistake(text)

    assert found.reason.startswith(reason)
    assert found.column == column
    assert found.text.startswith(offending)
    assert hint in found.hint


@pytest.mark.parametrize(
    "text", ["(" * 200 + "1" + ")" * 200, "not " * 100 + "flag", "[" * 60 + "]" * 60, "int(" * 60 + "1" + ")" * 60]
)
def test_s0_40_deep_nesting_is_refused(text):
    assert f"nested deeper than {MAX_DEPTH} levels" in mistake(text).reason


@pytest.mark.parametrize("text", ["1 + " * 200 + "1", "isl" * 1000])
def test_s0_40_long_expressions_are_refused(text):
    assert f"longer than {MAX_EXPRESSION_CHARACTERS} characters" in mistake(text).reason


@pytest.mark.parametrize(
    "text",
    [
        "-" * (MAX_EXPRESSION_CHARACTERS - 1) + "1",
        "1" + "|int" * 124,
        "1" + "+1" * 249,
        "1" + "<2" * 100,
        " or ".join(["flag"] * 60),
    ],
)
def test_long_chains_within_the_limit_are_evaluated(text):
    assert evaluate(text) is not None


@pytest.mark.parametrize(
    ("text", "reason", "hint"),
    [
        ("unset + 7", "+ needs numbers, but here is no value", "Guard it: `when NAME:` above, or (NAME or 0)"),
        ("'a' * 10", "* needs numbers, but here is 'a'", ""),
        ("flag + 1", "+ needs numbers, but here is true", ""),
        ("sizes * 2", "* needs numbers, but here is [1, 2]", ""),
        ("-unset", "- needs numbers, but here is no value", "Guard it"),
        ("bs / 0", "a division by zero", "Guard it"),
        ("bs % 0", "a division by zero", "Guard it"),
        ("unset < 3", "< cannot compare no value with 3", "Guard it"),
        ("'a' < 3", "< cannot compare 'a' with 3", "a number with a number"),
        ("flag < true", "< cannot compare true with true", "a number with a number"),
        ("bs == '64'", "== compares 64, a number, with '64', a text", "never equal"),
        ("flag == 1", "== compares true, true or false, with 1, a number", "never equal"),
        ("bs in ['a']", "in compares 64, a number, with 'a', a text", "never equal"),
        ("bs in 7", "`in` needs a list, but here is 7", 'x in ["a", "b"]'),
        ("'a' in 'abc'", "`in` needs a list", 'x in ["a", "b"]'),
        ("9000000000000000000 * 9", "the result is too large", "2 ** 63"),
        ("1e18 * 1e18", "the result is too large", "2 ** 63"),
        ("range(1000000)", f"range gives more than {MAX_LIST} numbers", "larger step"),
        ("range(-9000000000000000000, 9000000000000000000)", f"range gives more than {MAX_LIST} numbers", "step"),
        ("range(900) + range(900)", f"the list gets longer than {MAX_LIST} items", "larger step"),
        ("range(0, 9, 0)", "range cannot go in steps of 0", "another step"),
        ("range(1.5)", "range needs whole numbers", "int(value)"),
        ("range(unset)", "range needs a number, but here is no value", "Guard it"),
        ("[sizes]", "a list holds numbers and texts only", "one flat list"),
        ("int('7')", "int needs a number, but here is '7'", ""),
        ("len(bs)", "len needs a list or a text, but here is 64", ""),
        ("list(bs)", "list needs a list, but here is 64", "[value]"),
        ("max(unset, 3)", "max needs a number, but here is no value", "Guard it"),
        ("max([])", "max needs at least one number", "not empty"),
    ],
)
def test_values_that_do_not_fit_are_an_error_and_never_a_silent_none(text, reason, hint):
    found = mistake(text)

    assert reason in found.reason
    assert hint in found.hint


def outcome(text):
    """The value, or the error; anything else gets out and fails the test."""
    try:
        return evaluate(text)
    except ExpressionError as error:
        return error


WORDS = (
    *("isl", "bs", "unset", "flag", "mode", "sizes", "share", "1", "0", "2.5", "'a'", "none", "[", "]", "(", ")", ","),
    *("+", "-", "*", "/", "//", "%", "<", "==", "and", "or", "not", "if", "else", "in", "is", "min", "max", "range"),
    *("|", "int", "default", "unique", ".", "'agg'", "9223372036854775807", "1e300"),
)
TEXTS = st.one_of(st.text(max_size=60), st.lists(st.sampled_from(WORDS), max_size=14).map(" ".join))


@given(TEXTS)
def test_s0_40_any_text_gives_a_value_or_a_located_error(text):
    result = outcome(text)

    if isinstance(result, ExpressionError):
        assert result.reason
        assert 0 <= result.column <= len(text)
    else:
        assert result is None or isinstance(result, bool | int | float | str | list | tuple)
        assert not isinstance(result, int | float) or abs(result) <= MAX_NUMBER
        assert not isinstance(result, list) or len(result) <= MAX_LIST


NUMBERS = st.sampled_from(("isl", "bs", "share", "1", "7", "2.5"))
EXPRESSIONS = st.recursive(
    NUMBERS,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(("+", "-", "*", "//", "%", "/")), inner).map(" ".join),
        st.tuples(inner, st.sampled_from(("<", "<=", "==", "!=")), inner).map(" ".join),
        st.tuples(inner, st.sampled_from(("and", "or")), inner).map(" ".join),
        st.tuples(inner, inner, inner).map(lambda parts: "{} if {} else {}".format(*parts)),
        inner.map(lambda part: f"({part})"),
        inner.map(lambda part: f"-{part} | int"),
        inner.map(lambda part: f"not {part}"),
        inner.map(lambda part: f"({part} is none)"),
        inner.map(lambda part: f"({part} is not true)"),
    ),
    max_leaves=8,
)
JINJA = NativeEnvironment()


@given(EXPRESSIONS)
def test_what_can_be_computed_means_what_it_means_in_jinja(text):
    result = outcome(text)

    if not isinstance(result, ExpressionError):
        assert result == JINJA.compile_expression(text)(**VALUES)
