"""The expressions of rules: small, bounded, and nothing of the interpreter within reach."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.rendering.expressions import MAX_LIST, ExpressionError, compile_expression

VALUES = {"isl": 4000, "bs": 64, "mode": "disagg", "unset": None, "flag": True, "sizes": (1, 2)}


def evaluate(text):
    return compile_expression(text, VALUES)(VALUES)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("isl + 1500", 5500),
        ("2 * bs + 1500", 1628),
        ("-bs // 7", -10),
        ("bs / 128", 0.5),
        ("bs % 10", 4),
        ("max(bs, 100, isl)", 4000),
        ("min(bs, 100)", 64),
        ("(unset or 0) + 7", 7),
        ("1 if unset is none else 2", 1),
        ("mode == 'disagg' and flag", True),
        ("mode != 'agg' or bs > 1000", True),
        ("not flag", False),
        ("0 < bs <= 64", True),
        ("mode in ['agg', 'disagg']", True),
        ("bs not in sizes", True),
        ("range(1, 4)", [1, 2, 3]),
        ("[bs, isl]", [64, 4000]),
        ("len(sizes)", 2),
        ("int(bs / 3)", 21),
        ("round(2.6)", 3),
        ("abs(0 - 3)", 3),
        ("True and true and not False and none is None", True),
        ("'text'", "text"),
    ],
)
def test_the_small_language_computes(text, expected):
    assert evaluate(text) == expected


@pytest.mark.parametrize(
    ("text", "reason", "column"),
    [
        ("().__class__", "dots are not allowed", 0),
        ("cycler.__init__.__globals__.os.popen('id')", "this() cannot be called", 0),
        ("__import__('os')", "__import__() cannot be called; known: min, max", 0),
        ("open('/etc/passwd')", "open() cannot be called", 0),
        ("eval('1')", "eval() cannot be called", 0),
        ("min(1, key=len)", "min() cannot be called", 0),
        ("min(*[1])", "Starred is not allowed", 4),
        ("sizes[0]", "brackets after a name", 0),
        ("[x for x in sizes]", "comprehensions are not allowed", 0),
        ("lambda: 1", "functions cannot be defined", 0),
        ("(y := 3)", ":= is not allowed", 1),
        ("f'{bs}'", "f-strings are not allowed", 0),
        ("bs | int", "write int(x) instead of x | int", 0),
        ("2 ** 99", "powers are not allowed", 0),
        ("b'x'", "Constant is not allowed", 0),
        ("1 + bss", "there is no name bss; did you mean bs?", 4),
        ("1 + zebra", "there is no name zebra; known:", 4),
        ("x = 1", "not an expression", 2),
        ("1 +", "not an expression", 3),
        ("", "not an expression", 0),
        ("while", "not an expression", 0),
        ("1\x00", "not an expression", 0),
        ("(" * 300 + ")" * 300, "longer than 500", 0),
        ("(" * 240 + ")" * 240, "not an expression", 0),
        ("9" * 40, "too large", 0),
    ],
)
def test_anything_else_is_refused_at_its_column(text, reason, column):
    with pytest.raises(ExpressionError) as error:
        compile_expression(text, VALUES)

    assert reason in str(error.value)
    if "not an expression" not in reason:
        assert error.value.column == column


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("unset + 7", "+ needs numbers, but here is no value (guard it: `when x:` or `x or 0`)"),
        ("'a' * 10", "* needs numbers, but here is 'a'"),
        ("flag + 1", "+ needs numbers, but here is True"),
        ("bs / 0", "division by zero"),
        ("bs % 0", "modulo"),
        ("unset < 3", "no value and 3 cannot be compared"),
        ("9000000000000000000 * 9", "too large"),
        ("1e18 * 1e18", "too large"),
        ("range(1000000)", f"at most {MAX_LIST}"),
        ("range(0, 9, 0)", "must not be zero"),
        ("range()", "one to three"),
        ("range(unset)", "no value is not a number"),
        ("int('7')", "'7' is not a number"),
        ("len(bs)", "len() cannot work with these values"),
        ("max(unset, 3)", "max() cannot work"),
        ("bs in 7", "cannot be compared"),
    ],
)
def test_values_that_do_not_fit_are_an_error_and_never_a_silent_none(text, reason):
    evaluator = compile_expression(text, VALUES)

    with pytest.raises(ExpressionError) as error:
        evaluator(VALUES)

    assert reason in str(error.value)


def outcome(text):
    """The value, or the error's text; anything else gets out and fails the test."""
    try:
        return ("value", compile_expression(text, VALUES)(VALUES))
    except ExpressionError as error:
        return ("error", str(error))


WORDS = (
    *("isl", "bs", "unset", "flag", "mode", "1", "0", "2.5", "'a'", "none", "[", "]", "(", ")", ","),
    *("+", "-", "*", "/", "//", "%", "<", "==", "and", "or", "not", "if", "else", "in", "is", "min", "max", "range"),
)


@given(st.one_of(st.text(max_size=60), st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join)))
def test_any_text_gives_a_value_or_an_expression_error(text):
    kind, result = outcome(text)

    assert kind == "value" or result
