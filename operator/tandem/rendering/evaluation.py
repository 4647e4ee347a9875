"""What the lines of a rule file do for one role: first all are evaluated on a copy, then their outcome is told.

Lines are evaluated from top to bottom. A line sees what the user set, else what the last line above gave, else the
default. A `when` is evaluated once, when it is reached, and decides for all lines below it. Of two lines that give the
same parameter the later one wins. Because a line only sees lines above it, there are no cycles.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from pydantic import ValidationError

from tandem.api.mistakes import words_of
from tandem.api.parameters import EngineParameters
from tandem.api.problems import Problem, Refused, shorten
from tandem.rendering.rules import Condition, Line, RuleFile
from tandem.rendering.tokens import ExpressionError
from tandem.rendering.values import Outcome, RuleHit, Value


def evaluate_rules(
    rules: RuleFile, *, role: str, values: Mapping[str, object], given: Collection[str]
) -> tuple[RuleHit, ...]:
    """What each line of `rules` for `role` did, from top to bottom; raises `Refused` at the first that fails.

    `values` has every name of the vocabulary, None for what has no value; `given` are the parameters that the user
    set: a line never changes these.
    """
    run = _Run(role, dict(values), frozenset(given))
    hits = [run.line(line) for line in rules.lines if role in line.roles]
    last = {hit.name: index for index, hit in enumerate(hits) if hit.outcome == "applied"}
    return tuple(
        replace(hit, outcome="replaced") if hit.outcome == "applied" and last[hit.name] != index else hit
        for index, hit in enumerate(hits)
    )


@dataclass(slots=True)
class _Run:
    """One pass over the lines. `values` is a copy that only this pass knows."""

    role: str
    values: dict[str, object]
    given: frozenset[str]
    decided: dict[str, bool] = field(default_factory=dict)

    def line(self, line: Line) -> RuleHit:
        held: list[str] = []
        for condition in line.conditions:
            if not self._holds(condition):
                return self._hit(line, None, "skipped", held, str(condition))
            held.append(str(condition))
        if line.name in self.given:
            return self._hit(line, self._would_be(line), "overridden", held)
        value = self._value(line)
        if value is None:
            return self._hit(line, None, "empty", held)
        self.values[line.name] = value
        return self._hit(line, value, "applied", held)

    def _hit(self, line: Line, value: Value | None, outcome: Outcome, held: list[str], failed: str = "") -> RuleHit:
        return RuleHit(
            role=self.role,
            name=line.name,
            value=value,
            location=line.location,
            outcome=outcome,
            expression=line.expression,
            held=tuple(held),
            failed=failed,
        )

    def _holds(self, condition: Condition) -> bool:
        if condition.location not in self.decided:
            self.decided[condition.location] = bool(self._evaluate(condition))
        return self.decided[condition.location]

    def _would_be(self, line: Line) -> Value | None:
        """What the line gives, for the trace only: the user's value wins, so a failure concerns nobody."""
        try:
            return self._value(line)
        except Refused:
            return None

    def _value(self, line: Line) -> Value | None:
        raw = self._evaluate(line)
        if raw is None:
            return None
        value = tuple(raw) if isinstance(raw, list) else raw
        try:
            EngineParameters.model_validate({line.name: value}, by_name=True, by_alias=False)
        except ValidationError as error:
            told, _ = words_of(error.errors()[0])
            reason = f"the rule gives a value that {line.name} cannot have: {told}"
            fix = f"Correct the rule: {line.name} = {shorten(line.expression)[1:-1]}"
            raise Refused((Problem(f"{line.location}:{line.column}", shorten(raw), reason, fix),)) from None
        return value  # type: ignore[return-value]

    def _evaluate(self, place: Line | Condition) -> object:
        try:
            return place.evaluate(self.values)
        except ExpressionError as error:
            where = f"{place.location}:{place.column + error.column}"
            fix = error.hint or "Correct the rule."
            raise Refused((Problem(where, place.expression, f"the rule fails: {error.reason}", fix),)) from None
