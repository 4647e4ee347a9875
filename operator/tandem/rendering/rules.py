"""Rule files: how parameters that nobody set follow from others.

    # at most as many tokens as the prompts need
    when mode == "disagg":
        prefill max_batch_size = 1
        prefill max_num_tokens = isl + 1500 if isl else none     # none: this line says nothing
    agg_decode max_batch_size = 128

    line   := '' | '#' … | 'when' EXPR ':' | [ROLES] NAME '=' EXPR [';']
    ROLES  := ROLE { '_' ROLE }      ROLE := agg | prefill | decode      (without it: every role)

A `when` holds for the lines indented below it, by spaces; nested ones must all hold; there is no else. NAME is a
unified parameter; EXPR is described in `expressions.py`, the names it sees in `vocabulary.py`. Every mistake is
located, and found when the file is loaded, not when a condition happens to hold. What the lines do is in
`evaluation.py`.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

from tandem.api.problems import Problem, Refused
from tandem.rendering.expressions import compile_expression
from tandem.rendering.mapping import PARAMETER_NAMES
from tandem.rendering.operations import Evaluator
from tandem.rendering.tokens import ExpressionError
from tandem.rendering.vocabulary import NAMES, ROLES, why_not_set

MAX_FILE_CHARACTERS = 65_536
MAX_NESTED = 16
MAX_PROBLEMS = 50
MAX_SHOWN = 80
_FORMS = "Write `when EXPR:` or `[roles] NAME = EXPR`."
_WHEN = re.compile(r"when\b(?P<expression>.*)$")
_ASSIGNMENT = re.compile(r"(?P<left>[^=]*?) *=(?!=)(?P<expression>.*)$")
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")
# ConfigMaps and editors hide these, or show them as the end of a line.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ufeff\ud800-\udfff]")
_FOREIGN = {
    **dict.fromkeys(("else", "elif"), "There is no else: write another `when`, with `not`."),
    **dict.fromkeys(("for", "while"), "There are no loops: write range(1, n + 1)."),
    **dict.fromkeys(("import", "from", "def", "class", "set"), "A rule only sets a parameter."),
    "if": "Write `when EXPR:`.",
}


@dataclass(frozen=True, slots=True)
class Condition:
    """One `when`. `location` is `file:line`, `column` where its expression begins, from 1."""

    location: str
    column: int
    expression: str
    evaluate: Evaluator

    def __str__(self) -> str:
        return f"{self.location}: when {self.expression}"


@dataclass(frozen=True, slots=True)
class Line:
    """One assignment with all conditions around it, the outermost first."""

    location: str
    column: int
    expression: str
    evaluate: Evaluator
    roles: tuple[str, ...]
    name: str
    conditions: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class RuleFile:
    """A compiled rule file; an empty one changes nothing."""

    lines: tuple[Line, ...] = ()


def parse_rules(text: str, location: str) -> RuleFile:
    """Compiles a rule file named `location` in messages; raises `Refused` with its mistakes, 50 at most."""
    if len(text) > MAX_FILE_CHARACTERS:
        reason, fix = "the rule file is too long", f"Keep it below {MAX_FILE_CHARACTERS} characters."
        raise Refused((Problem(location, f"{len(text)} characters", reason, fix),))
    parser = _Parser(location)
    for number, raw in enumerate(text.split("\n"), start=1):
        parser.feed(number, raw.removesuffix("\r"))
        if len(parser.problems) >= MAX_PROBLEMS:
            break
    parser.end()
    if parser.problems:
        raise Refused(parser.problems)
    return RuleFile(tuple(parser.lines))


@dataclass(slots=True)
class _Block:
    """An open `when`: its indent, that of its lines once known, and its condition, None when that is malformed."""

    line: int
    indent: int
    body: int | None
    condition: Condition | None


class _Parser:
    def __init__(self, location: str) -> None:
        self.lines: list[Line] = []
        self.problems: list[Problem] = []
        self._location = location
        self._open: list[_Block] = []

    def feed(self, number: int, raw: str) -> None:
        if match := _CONTROL.search(raw):
            self._problem(number, match.start(), ascii(match[0])[1:-1], "a character that cannot be seen", "Remove it.")
            return
        text = _without_comment(raw).rstrip()
        body = text.lstrip(" ")
        indent = len(text) - len(body)
        if not body:
            return
        if body.startswith("\t"):
            self._problem(number, indent, "a tab", "tabs do not indent here", "Indent with spaces.")
        elif self._place(number, indent, body):
            if match := _WHEN.match(body):
                self._when(number, indent, match)
            elif match := _ASSIGNMENT.match(body):
                self._assign(number, indent, match)
            else:
                word = body.split(None, 1)[0].rstrip(":")
                reason = f"{word} does not exist here" if word in _FOREIGN else "this is no rule"
                self._problem(number, indent, body, reason, _FOREIGN.get(word, _FORMS))

    def end(self) -> None:
        """Refuses a `when` at the end of the file that governs nothing."""
        if self._open and self._open[-1].body is None:
            self._empty(self._open[-1])

    def _place(self, number: int, indent: int, body: str) -> bool:
        """Closes the blocks that end before this line and checks its indentation."""
        if self._open and self._open[-1].body is None:
            if indent > self._open[-1].indent:
                self._open[-1].body = indent
            else:
                self._empty(self._open[-1])
        while self._open and indent <= self._open[-1].indent:
            self._open.pop()
        expected = self._open[-1].body if self._open else 0
        if indent == expected:
            return True
        reason = f"indented by {indent} spaces, but the lines around it by {expected}"
        self._problem(number, indent, body, reason, f"Indent it by {expected} spaces.")
        return False

    def _empty(self, block: _Block) -> None:
        reason = "nothing is indented below this `when`"
        self._problem(block.line, block.indent, "when", reason, "Indent the lines that it governs, or remove it.")

    def _when(self, number: int, indent: int, match: re.Match[str]) -> None:
        source = match["expression"]
        condition = None
        if len(self._open) >= MAX_NESTED:
            reason = f"more than {MAX_NESTED} `when` inside each other"
            self._problem(number, indent, match[0], reason, "Join conditions with `and`.")
        elif not source.endswith(":"):
            fix = "Write `when EXPR:`, and what it governs indented on the next lines."
            self._problem(number, indent, match[0], "a `when` ends with a colon", fix)
        elif compiled := self._compile(number, indent + match.start("expression"), source[:-1]):
            condition = Condition(f"{self._location}:{number}", *compiled)
        self._open.append(_Block(number, indent, None, condition))

    def _assign(self, number: int, indent: int, match: re.Match[str]) -> None:
        words = list(re.finditer(r"\S+", match["left"]))
        if not 1 <= len(words) <= 2 or not all(_WORD.fullmatch(word[0]) for word in words):
            self._problem(number, indent, match[0], "this is no rule", _FORMS)
            return
        roles = self._roles(number, indent, words[0][0]) if len(words) == 2 else ROLES
        name, column = words[-1][0], indent + words[-1].start()
        if name not in PARAMETER_NAMES:
            near = difflib.get_close_matches(name, PARAMETER_NAMES, n=1)
            reason, fix = why_not_set(name)
            known = name in NAMES or "." in name
            self._problem(number, column, name, reason, f"Did you mean {near[0]}?" if near and not known else fix)
        source = match["expression"].rstrip().removesuffix(";")
        compiled = self._compile(number, indent + match.start("expression"), source)
        conditions = tuple(block.condition for block in self._open if block.condition is not None)
        if compiled and roles and len(conditions) == len(self._open):
            self.lines.append(Line(f"{self._location}:{number}", *compiled, roles, name, conditions))

    def _roles(self, number: int, indent: int, scope: str) -> tuple[str, ...] | None:
        """The roles that a scope names, None when it is malformed."""
        roles = tuple(scope.split("_"))
        wrong = next((role for role in roles if role not in ROLES), None)
        if wrong is None and len(set(roles)) == len(roles):
            return roles
        if wrong is None:
            reason, fix = "a role is named twice", "Name each role once."
        else:
            reason = f"there is no role {wrong}" if wrong else "a role is missing beside a _"
            fix = f"Roles are {', '.join(ROLES)}; join several with _."
        self._problem(number, indent, scope, reason, fix)
        return None

    def _compile(self, number: int, column: int, source: str) -> tuple[int, str, Evaluator] | None:
        """The column, from 1, at which the expression begins, its text, and what it means."""
        begin = column + len(source) - len(source.lstrip(" "))
        text = source.strip(" ")
        try:
            return begin + 1, text, compile_expression(text, NAMES)
        except ExpressionError as error:
            fix = error.hint or "Correct the expression."
            self._problem(number, begin + error.column, error.text, error.reason, fix)
            return None

    def _problem(self, number: int, column: int, value: str, reason: str, fix: str) -> None:
        shown = value if len(value) <= MAX_SHOWN else f"{value[:MAX_SHOWN]}…"
        self.problems.append(Problem(f"{self._location}:{number}:{column + 1}", shown, reason, fix))


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
