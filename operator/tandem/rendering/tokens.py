"""The words of a rule's expression, each with its column."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

MAX_EXPRESSION_CHARACTERS = 500

Kind = Literal["number", "text", "name", "sign", "end"]


class ExpressionError(Exception):
    """A wrong expression, or a value that it cannot work with.

    `column` counts characters from 0 within the expression, `text` is what stands there, `hint` says what to write.
    """

    def __init__(self, reason: str, column: int = 0, *, text: str = "", hint: str = "") -> None:
        self.reason = reason
        self.column = column
        self.text = text
        self.hint = hint
        super().__init__(f"{reason}; {hint}" if hint else reason)


@dataclass(frozen=True, slots=True)
class Token:
    """One word of an expression. The text of a `text` token is without its quotes."""

    kind: Kind
    text: str
    column: int


_TOKEN = re.compile(
    r"""[ ]*(?:
    (?P<number>[0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?(?![A-Za-z0-9_.]))
  | (?P<text>'[^'\\]*'|"[^"\\]*")
  | (?P<name>[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*)
  | (?P<sign>//|\*\*|==|!=|<=|>=|:=|\|\||&&|[-+*/%<>()\[\],|.=~:{}!])
  | (?P<end>$)
)""",
    re.VERBOSE,
)
_MISTAKES: tuple[tuple[re.Pattern[str], str, str], ...] = (
    (re.compile(r"[0-9][A-Za-z0-9_.]*"), "this is no number", "Write digits only, as in 4000 or 0.9."),
    (
        re.compile(r"'[^']*\\[^']*'?|\"[^\"]*\\[^\"]*\"?"),
        "a backslash has no meaning in a text",
        "Leave it out, or use the other kind of quotes.",
    ),
    (re.compile(r"['\"].*"), "a text without its closing quote", "Add the closing quote."),
    (re.compile(r";.*"), "a line holds one rule", "Write what follows on a line of its own."),
)


def tokenize(text: str) -> list[Token]:
    """The tokens of `text`, the last of kind `end`; raises `ExpressionError` at the first that is none."""
    if len(text) > MAX_EXPRESSION_CHARACTERS:
        raise ExpressionError(
            f"the expression is longer than {MAX_EXPRESSION_CHARACTERS} characters",
            text=f"{text[:40]}…",
            hint="Spread it over several rules.",
        )
    tokens: list[Token] = []
    at = 0
    while True:
        match = _TOKEN.match(text, at)
        if match is None:
            raise _mistake(text, at)
        kind: Kind = match.lastgroup  # type: ignore[assignment]
        begin, at = match.span(kind)
        found = match[kind]
        tokens.append(Token(kind, found[1:-1] if kind == "text" else found, begin))
        if kind == "end":
            return tokens


def _mistake(text: str, at: int) -> ExpressionError:
    column = at + len(text[at:]) - len(text[at:].lstrip(" "))
    for pattern, reason, hint in _MISTAKES:
        if match := pattern.match(text, column):
            return ExpressionError(reason, column, text=match[0], hint=hint)
    return ExpressionError("this character means nothing here", column, text=text[column], hint="Leave it out.")
