"""Any rule text, on every backend and in both modes, ends in a rendering or in located mistakes."""

import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tandem.api.problems import Refused
from tandem.rendering.mapping import PARAMETER_NAMES
from tandem.rendering.pipeline import Rendering, render
from tandem.rendering.vocabulary import NAMES
from tests.unit.rendering.test_pipeline import request as rendering_request

ATOMS = st.one_of(
    st.sampled_from(sorted(NAMES)),
    st.integers(0, 5000).map(str),
    st.sampled_from(("0.5", "true", "none", "'fp8'", "'agg'", "'x'", "[1, 2]", "range(1, 9)", "isl_", "''", "(1,)")),
)
OPERATORS = st.sampled_from(("+", "-", "*", "//", "/", "%", "<", "==", "!=", "and", "or", "in", "is", "not in", "|"))
EXPRESSIONS = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.tuples(inner, OPERATORS, inner).map(" ".join),
        st.tuples(st.sampled_from(("min", "max", "int", "len", "default", "unique", "open")), inner).map(
            lambda parts: "{}({})".format(*parts)
        ),
        st.tuples(inner, inner, inner).map(lambda parts: "{} if {} else {}".format(*parts)),
        inner.map(lambda text: f"({text})"),
        inner.map(lambda text: f"not {text}"),
    ),
    max_leaves=5,
)
SCOPES = st.sampled_from(("", "", "agg ", "prefill ", "agg_decode ", "prefill_decode ", "encode ", "agg_ "))
ASSIGNMENTS = st.tuples(SCOPES, st.sampled_from(PARAMETER_NAMES), EXPRESSIONS).map("{0[0]}{0[1]} = {0[2]}".format)
BLOCKS = st.tuples(EXPRESSIONS, st.sampled_from((2, 4, 0)), ASSIGNMENTS).map(
    lambda parts: f"when {parts[0]}:\n{' ' * parts[1]}{parts[2]}"
)
TEXTS = st.one_of(st.text(max_size=120), st.lists(st.one_of(ASSIGNMENTS, BLOCKS), max_size=4).map("\n".join))
FACTS = st.fixed_dictionaries({}, optional={"isl": st.integers(1, 10**6), "is_moe": st.booleans()})
PLACE = re.compile(r"mine/[a-z]+\.rule:[1-9][0-9]*(:[1-9][0-9]*)?")
SOME = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


def outcome(library, backend, mode, text, facts):
    """The rendering, or the mistakes; anything but `Refused` gets out and fails the test."""
    try:
        mine = library.with_rules(
            backend=backend, rule_set="production", texts={f"{backend}.rule": text}, label="mine", path="spec.rules"
        )
        return render(rendering_request(backend, mode, facts=facts), mine)
    except Refused as refused:
        return refused.problems


@pytest.mark.parametrize("mode", ["agg", "disagg"])
@pytest.mark.parametrize("backend", ["torch", "vllm", "sglang", "trtllm"])
@SOME
@given(text=TEXTS, facts=FACTS)
def test_s0_40_any_rule_text_ends_in_a_rendering_or_in_located_mistakes(library, backend, mode, text, facts):
    found = outcome(library, backend, mode, text, facts)

    if isinstance(found, Rendering):
        assert found == outcome(library, backend, mode, text, facts)
    else:
        assert all(PLACE.fullmatch(problem.path) for problem in found), found
        assert all(problem.reason and problem.fix for problem in found)
