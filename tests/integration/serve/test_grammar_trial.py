"""Grammars are tried out in a process of their own."""

from __future__ import annotations

import pytest

from tandem_serve.engine import grammar_trial
from tandem_serve.engine.grammar import schema_source

pytestmark = pytest.mark.integration


def test_a_small_grammar_of_endless_work_is_given_up() -> None:
    patterns = [{"type": "string", "pattern": f"a.{{{number}}}b"} for number in range(30)]
    problem = grammar_trial.check(schema_source({"allOf": patterns}), cpu_seconds=1)
    assert problem.endswith("to prepare")
