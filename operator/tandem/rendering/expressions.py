"""The expressions of rules: a small, total language, parsed here and compiled once to closures.

    choice  := or ['if' or 'else' choice]
    or      := and {'or' and}
    and     := not {'and' not}
    not     := 'not' not | compare
    compare := sum {('==' | '!=' | '<' | '<=' | '>' | '>=' | 'in' | 'not' 'in') sum}
    sum     := product {('+' | '-') product}
    product := unary {('*' | '/' | '//' | '%') unary}
    unary   := {'-'} value {'|' FUNCTION ['(' choices ')'] | 'is' ['not'] CONSTANT}
    value   := NUMBER | TEXT | CONSTANT | NAME | FUNCTION '(' choices ')' | '(' choices ')' | '[' choices ']'
    choices := [choice {',' choice} [',']]          CONSTANT := true | false | none

What exists here means what it means in Jinja. There is no attribute, subscript, loop, or name that is not declared, so
nothing here can reach the interpreter. Work is bounded by the length of the text: there is no loop, a list has at most
`MAX_LIST` items, a number at most 64 bits.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tandem.rendering.operations import (
    COMPARISONS,
    FUNCTIONS,
    MAX_NUMBER,
    Evaluator,
    as_list,
    calculate,
    call,
    compare,
)
from tandem.rendering.tokens import ExpressionError, Token, tokenize

MAX_DEPTH = 20
_CONSTANTS: Mapping[str, object] = {
    "true": True,
    "True": True,
    "false": False,
    "False": False,
    "none": None,
    "None": None,
}
_WORDS = frozenset(("and", "or", "not", "in", "is", "if", "else"))
_HINTS: Mapping[str, str] = {
    "**": "Powers do not exist here: multiply.",
    "=": "Write == to compare.",
    ":=": "Write the value as a rule of its own above this one.",
    "~": "Texts cannot be joined: write the whole text.",
    ".": "Names are flat here: write the name alone.",
    "[": "Nothing can be taken out of a list: there are no brackets after a value.",
    "(": "Only a function can be called.",
    "||": "Write or.",
    "&&": "Write and.",
    "!": "Write not, or != to compare.",
    "{": "There are no dictionaries here.",
    ":": "A rule has no colon, and `when` has one at its end only.",
    "for": "There are no loops: write range(1, n + 1).",
    "lambda": "Functions cannot be defined.",
    "if": "A choice needs its other side: write a if c else b.",
}


@dataclass(frozen=True, slots=True)
class Name:
    """Where the value of a name is found, and the texts that it can be, if they are known."""

    key: str
    choices: tuple[str, ...] = ()


def compile_expression(text: str, names: Mapping[str, Name]) -> Evaluator:
    """`text` as a function of values; raises `ExpressionError`, as does the function itself.

    `names` are the names that may be written. To compare one with a text that it can never be is a mistake.
    """
    parser = _Parser(tokenize(text), names)
    evaluator = parser.choice()
    parser.finish()
    return evaluator


def _negated(value: Evaluator, column: int) -> Evaluator:
    return calculate(lambda _values: 0, [("-", column, value)])


class _Parser:
    """Recursive descent; each method returns the part that it read as a closure."""

    def __init__(self, tokens: list[Token], names: Mapping[str, Name]) -> None:
        self._tokens = tokens
        self._names = names
        self._at = 0
        self._depth = 0

    def finish(self) -> None:
        """Refuses what is left over."""
        token = self._token
        if token.kind != "end":
            hint = _HINTS.get(token.text, "Remove it, or write an operator before it.")
            raise ExpressionError("the expression should end here", token.column, text=token.text, hint=hint)

    def choice(self) -> Evaluator:
        self._deeper()
        value = self._or()
        if self._take("if"):
            condition = self._or()
            if not self._take("else"):
                raise ExpressionError("an `if` without its `else`", self._token.column, hint=_HINTS["if"])
            other, chosen = self.choice(), value
            value = lambda values: chosen(values) if condition(values) else other(values)  # noqa: E731
        self._depth -= 1
        return value

    @property
    def _token(self) -> Token:
        return self._tokens[self._at]

    def _take(self, *texts: str) -> Token | None:
        """The next token when it is one of these signs or words."""
        token = self._token
        if token.kind not in ("sign", "name") or token.text not in texts:
            return None
        self._at += 1
        return token

    def _expect(self, sign: str) -> None:
        if not self._take(sign):
            token = self._token
            reason = f"{sign} is missing here"
            hint = _HINTS.get(token.text, f"Write {sign} before it." if token.text else f"Add {sign}.")
            raise ExpressionError(reason, token.column, text=token.text, hint=hint)

    def _deeper(self) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            reason = f"the expression is nested deeper than {MAX_DEPTH} levels"
            raise ExpressionError(reason, self._token.column, text=self._token.text, hint="Make it simpler.")

    def _or(self) -> Evaluator:
        return self._chain("or", lambda: self._chain("and", self._not))

    def _chain(self, word: str, operand: Callable[[], Evaluator]) -> Evaluator:
        parts = [operand()]
        while self._take(word):
            parts.append(operand())
        if len(parts) == 1:
            return parts[0]

        def evaluate(values: Mapping[str, object]) -> object:
            result: object = None
            for part in parts:
                result = part(values)
                if bool(result) is (word == "or"):
                    break
            return result

        return evaluate

    def _not(self) -> Evaluator:
        if not self._take("not"):
            return self._compare()
        self._deeper()
        part = self._not()
        self._depth -= 1
        return lambda values: not part(values)

    def _compare(self) -> Evaluator:
        begin = self._at
        first = self._sum()
        subject = self._tokens[begin] if self._at == begin + 1 else None
        steps: list[tuple[str, int, Evaluator]] = []
        while step := self._step():
            steps.append(step)
        if subject is not None and subject.kind == "name" and subject.text in self._names:
            self._check_texts(self._names[subject.text], self._tokens[begin + 1 : self._at])
        return compare(first, steps) if steps else first

    def _step(self) -> tuple[str, int, Evaluator] | None:
        token = self._token
        if self._take(*COMPARISONS):
            return token.text, token.column, self._sum()
        following = self._tokens[min(self._at + 1, len(self._tokens) - 1)]
        if token.kind == following.kind == "name" and (token.text, following.text) == ("not", "in"):
            self._at += 2
            return "not in", token.column, self._sum()
        return None

    def _check_texts(self, name: Name, tokens: list[Token]) -> None:
        for token in tokens:
            if name.choices and token.kind == "text" and token.text not in name.choices:
                known = ", ".join(name.choices)
                reason = f"{name.key} is never {token.text!r}"
                raise ExpressionError(reason, token.column, text=token.text, hint=f"It is one of: {known}.")

    def _is(self, token: Token) -> tuple[str, int, Evaluator]:
        sign = "is not" if self._take("not") else "is"
        wanted = self._token
        if wanted.kind != "name" or wanted.text not in _CONSTANTS:
            hint = "Every name exists here: write is none or is not none." if "defined" in wanted.text else ""
            hint = hint or "Write is none, is true, is false, or == for a value."
            raise ExpressionError(
                f"`{sign}` is followed by none, true or false", wanted.column, text=wanted.text, hint=hint
            )
        self._at += 1
        constant = _CONSTANTS[wanted.text]
        return sign, token.column, lambda _values: constant

    def _sum(self) -> Evaluator:
        return self._operators(("+", "-"), self._product)

    def _product(self) -> Evaluator:
        return self._operators(("*", "/", "//", "%"), self._unary)

    def _operators(self, signs: tuple[str, ...], operand: Callable[[], Evaluator]) -> Evaluator:
        first = operand()
        steps: list[tuple[str, int, Evaluator]] = []
        while token := self._take(*signs):
            steps.append((token.text, token.column, operand()))
        return calculate(first, steps) if steps else first

    def _unary(self) -> Evaluator:
        """A value with its sign, then filters and tests; as in Jinja, these are for the value with its sign."""
        columns: list[int] = []
        while token := self._take("-"):
            columns.append(token.column)
        value = self._value()
        for column in columns[: 2 - len(columns) % 2]:  # two signs cancel each other out
            value = _negated(value, column)
        while token := self._take("|", "is"):
            value = self._filter(value) if token.text == "|" else compare(value, [self._is(token)])
        return value

    def _filter(self, value: Evaluator) -> Evaluator:
        token = self._token
        if token.kind != "name" or token.text not in FUNCTIONS:
            raise self._no_function(token)
        self._at += 1
        return call(token, [value, *(self._arguments(")") if self._take("(") else ())])

    def _value(self) -> Evaluator:
        token = self._token
        self._at += token.kind != "end"
        match token:
            case Token("number"):
                return self._number(token)
            case Token("text", text):
                return lambda _values: text
            case Token("name", text) if text not in _WORDS:
                if self._take("("):
                    if text not in FUNCTIONS:
                        raise self._no_function(token)
                    return call(token, self._arguments(")"))
                return self._name(token)
            case Token("sign", "("):
                parts, single = self._group()
                return parts[0] if single else as_list(parts, token.column)
            case Token("sign", "["):
                return as_list(self._arguments("]"), token.column)
        hint = _HINTS.get(token.text, "Write a number, a text in quotes, a name or a function.")
        raise ExpressionError("a value is missing here", token.column, text=token.text, hint=hint)

    def _group(self) -> tuple[list[Evaluator], bool]:
        """What is between parentheses, and whether it is one value rather than a list."""
        first = self.choice()
        if not self._take(","):
            self._expect(")")
            return [first], True
        return [first, *self._arguments(")")], False

    def _arguments(self, end: str) -> list[Evaluator]:
        """Values up to the sign `end`, separated by commas; one more comma may follow the last."""
        parts: list[Evaluator] = []
        while not self._take(end):
            if parts:
                self._expect(",")
                if self._take(end):
                    break
            parts.append(self.choice())
            if self._token.text not in (",", end):
                self._expect(end)
                break
        return parts

    def _number(self, token: Token) -> Evaluator:
        whole = token.text.isdigit()
        number = float(token.text) if not whole or len(token.text) > 19 else int(token.text)
        if number > MAX_NUMBER:
            raise ExpressionError("the number is too large", token.column, text=token.text, hint="Stay below 2 ** 63.")
        return lambda _values: number

    def _name(self, token: Token) -> Evaluator:
        if token.text in _CONSTANTS:
            constant = _CONSTANTS[token.text]
            return lambda _values: constant
        if token.text not in self._names:
            raise self._no_name(token)
        key = self._names[token.text].key
        return lambda values: values[key]

    def _no_name(self, token: Token) -> ExpressionError:
        text = token.text
        if text in _HINTS:
            return ExpressionError(f"`{text}` does not exist here", token.column, text=text, hint=_HINTS[text])
        last = text.rsplit(".", 1)[-1]
        near = [last] if last in self._names else difflib.get_close_matches(text, self._names, n=1)
        known = ", ".join(sorted(name for name in self._names if "." not in name))
        flat = f"{_HINTS['.']} " if "." in text else ""
        hint = flat + (f"Did you mean {near[0]}?" if near else f"Known: {known}.")
        return ExpressionError(f"there is no name {text}", token.column, text=text, hint=hint)

    def _no_function(self, token: Token) -> ExpressionError:
        if token.kind != "name":
            return ExpressionError(
                "after a bar comes the name of a function",
                token.column,
                text=token.text,
                hint="Write x | int, or `or` for a choice.",
            )
        reason = f"there is no function {token.text}"
        return ExpressionError(reason, token.column, text=token.text, hint=f"Known: {', '.join(FUNCTIONS)}.")
