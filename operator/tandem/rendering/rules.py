"""Rule files: how parameters that nobody set follow from others.

    # at most as many tokens as the prompts need
    when mode == "disagg":
        prefill max_batch_size = 1
        prefill max_num_tokens = isl + 1500 if isl else none     # none: this line says nothing
    agg_decode max_batch_size = 128

    line   := '' | '#' … | 'when' EXPR ':' | [ROLES] NAME '=' EXPR [';']
    ROLES  := ROLE { '_' ROLE }      ROLE := agg | prefill | decode      (without it: every role)

A `when` holds for the lines indented below it, by spaces; nested ones must all hold; there is no else. NAME is a
unified parameter; an expression sees the parameters of its role (what the user set, else what a line above gave, else
the default, else no value) and the names of `CONTEXT_NAMES`. A user's value always wins. Every mistake is located, and
found when the file is loaded, not when a condition happens to hold.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from tandem.api.problems import Problem, Refused
from tandem.rendering.expressions import Evaluator, ExpressionError, compile_expression
from tandem.rendering.mapping import PARAMETER_NAMES

ROLES = ("agg", "prefill", "decode")
CONTEXT_NAMES = (
    *("role", "mode", "backend", "version"),
    *("isl", "osl", "ttft_ms", "tpot_ms", "concurrency"),
    *("model_max_len", "model_params", "model_weight_bytes", "model_kv_bytes_per_token"),
)
MAX_FILE_CHARACTERS = 65_536
_NAMES = frozenset((*PARAMETER_NAMES, *CONTEXT_NAMES))
_WHEN = re.compile(r"when\b(?P<expression>.*)$")
_ASSIGNMENT = re.compile(r"(?:(?P<scope>[A-Za-z_]+) +)?(?P<name>[A-Za-z_][A-Za-z0-9_]*) *=(?!=)(?P<expression>.*)$")
_FIX = "See the grammar of rule files; nothing of this file is applied."


@dataclass(frozen=True, slots=True)
class Line:
    """One assignment with all conditions around it. `location` is `file:line`, `column` where its expression begins."""

    location: str
    column: int
    roles: tuple[str, ...]
    name: str
    conditions: tuple[Condition, ...]
    value: Evaluator


@dataclass(frozen=True, slots=True)
class Condition:
    """One `when`."""

    location: str
    column: int
    holds: Evaluator


@dataclass(frozen=True, slots=True)
class RuleFile:
    """A compiled rule file; an empty one changes nothing."""

    lines: tuple[Line, ...] = ()

    def assignments(self, role: str, values: Mapping[str, object]) -> Iterator[tuple[Line, object]]:
        """The lines that hold for `role` with their results, top to bottom; raises `Refused`.

        `values` is read anew for each line, so the caller can make results visible to the lines below.
        """
        for line in self.lines:
            if role not in line.roles:
                continue
            if all(_evaluate(when.holds, values, when) for when in line.conditions):
                yield line, _evaluate(line.value, values, line)


def _evaluate(evaluator: Evaluator, values: Mapping[str, object], place: Line | Condition) -> object:
    try:
        return evaluator(values)
    except ExpressionError as error:
        where = f"{place.location}:{place.column + error.column}"
        raise Refused((Problem(where, "", f"the rule fails: {error}", "Correct the rule."),)) from None


def parse_rules(text: str, location: str) -> RuleFile:
    """Compiles a rule file named `location` in messages; raises `Refused` with every mistake in it."""
    if len(text) > MAX_FILE_CHARACTERS:
        reason = "the rule file is too long"
        raise Refused((Problem(location, str(len(text)), reason, f"Keep it below {MAX_FILE_CHARACTERS} characters."),))
    parser = _Parser(location)
    for number, raw in enumerate(text.splitlines(), start=1):
        parser.feed(number, raw)
    parser.end()
    if parser.problems:
        raise Refused(parser.problems)
    return RuleFile(tuple(parser.lines))


class _Parser:
    """Keeps the open `when` blocks as (indent of the when, indent of its body once known, condition)."""

    def __init__(self, location: str) -> None:
        self.lines: list[Line] = []
        self.problems: list[Problem] = []
        self._location = location
        self._open: list[tuple[int, int | None, Condition | None]] = []
        self._last = 0

    def feed(self, number: int, raw: str) -> None:
        text = _without_comment(raw).rstrip()
        if not text.strip():
            return
        self._last = number
        body = text.lstrip(" ")
        indent = len(text) - len(body)
        if body.startswith("\t"):
            self._problem(number, indent, body, "tabs are not allowed: indent with spaces")
            return
        if not self._place(number, indent, body):
            return
        if match := _WHEN.match(body):
            self._when(number, indent, match)
        elif match := _ASSIGNMENT.match(body):
            self._assign(number, indent, match)
        else:
            word = body.split(None, 1)[0].rstrip(":")
            reason = f"{word} does not exist here" if word in ("else", "elif", "if", "for", "while") else "not a rule"
            self._problem(number, indent, body, f"{reason}; write `when EXPR:` or `[roles] NAME = EXPR`")

    def end(self) -> None:
        if self._open and self._open[-1][1] is None:
            self._problem(self._last, self._open[-1][0], "", "nothing is indented below this `when`")

    def _place(self, number: int, indent: int, body: str) -> bool:
        """Closes the blocks that end before this line and checks its indentation."""
        if self._open and self._open[-1][1] is None:
            outer, _, condition = self._open[-1]
            if indent <= outer:
                self._open.pop()
                self._problem(number, indent, body, "the `when` above has no indented line; indent what it governs")
                return False
            self._open[-1] = (outer, indent, condition)
        while self._open and indent <= self._open[-1][0]:
            self._open.pop()
        expected = self._open[-1][1] if self._open else 0
        if indent != expected:
            self._problem(number, indent, body, f"indented by {indent} spaces, but its block by {expected}")
            return False
        return True

    def _when(self, number: int, indent: int, match: re.Match[str]) -> None:
        source = match["expression"]
        condition = None
        if not source.endswith(":"):
            self._problem(number, indent, match[0], "a `when` ends with a colon")
        else:
            column = indent + match.start("expression")
            compiled = self._compile(number, column, source[:-1])
            condition = compiled and Condition(f"{self._location}:{number}", compiled[1], compiled[0])
        self._open.append((indent, None, condition))

    def _assign(self, number: int, indent: int, match: re.Match[str]) -> None:
        roles = tuple(match["scope"].split("_")) if match["scope"] else ROLES
        unknown = [role for role in roles if role not in ROLES]
        if unknown:
            self._problem(number, indent, match["scope"], f"there is no role {unknown[0]!r}; roles: {', '.join(ROLES)}")
        if match["name"] not in PARAMETER_NAMES:
            known = ", ".join(PARAMETER_NAMES)
            self._problem(
                number, indent + match.start("name"), match["name"], f"no parameter of this name; known: {known}"
            )
        source = match["expression"].rstrip()
        compiled = self._compile(
            number, indent + match.start("expression"), source[:-1] if source.endswith(";") else source
        )
        conditions = [condition for _, _, condition in self._open]
        if compiled is None or unknown or None in conditions:
            return
        held = tuple(condition for condition in conditions if condition is not None)
        line = Line(f"{self._location}:{number}", compiled[1], roles, match["name"], held, compiled[0])
        self.lines.append(line)

    def _compile(self, number: int, column: int, source: str) -> tuple[Evaluator, int] | None:
        """The compiled expression and the column, from 1, at which it begins."""
        begin = column + len(source) - len(source.lstrip()) + 1
        try:
            return compile_expression(source, _NAMES), begin
        except ExpressionError as error:
            self._problem(number, begin - 1 + error.column, source.strip(), str(error))
            return None

    def _problem(self, number: int, column: int, value: str, reason: str) -> None:
        self.problems.append(Problem(f"{self._location}:{number}:{column + 1}", value[:80], reason, _FIX))


def _without_comment(line: str) -> str:
    """The line up to a `#` that is not inside quotes."""
    quote = ""
    for index, character in enumerate(line):
        if quote:
            quote = "" if character == quote else quote
        elif character in "\"'":
            quote = character
        elif character == "#":
            return line[:index]
    return line
