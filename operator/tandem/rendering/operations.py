"""What the signs and functions of rule expressions do; a value that does not fit is an error, never a silent none."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence

from tandem.api.problems import shorten
from tandem.rendering.tokens import ExpressionError, Token

MAX_LIST = 1024
MAX_NUMBER = 2**63

Evaluator = Callable[[Mapping[str, object]], object]
Step = tuple[str, int, Evaluator]

BINARY: Mapping[str, Callable[[float, float], float]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "//": operator.floordiv,
    "%": operator.mod,
}
_ORDER: Mapping[str, Callable[..., bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
COMPARISONS = ("==", "!=", *_ORDER, "in")
_GUARD = "Guard it: `when NAME:` above, or (NAME or 0)."


def kind_of(value: object) -> str:
    """The kind of a value, as messages name it."""
    if value is None:
        return "no value"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "a number"
    return "a text" if isinstance(value, str) else "a list"


def _shown(value: object) -> str:
    if value is None:
        return "no value"
    if isinstance(value, bool):
        return str(value).lower()
    return shorten(list(value) if isinstance(value, tuple) else value, 60)


def _operand(value: object, sign: str, column: int) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        hint = _GUARD if value is None else ""
        raise ExpressionError(f"{sign} needs numbers, but here is {_shown(value)}", column, text=sign, hint=hint)
    return value


def _joined(left: Sequence[object], right: Sequence[object], column: int) -> list[object]:
    if len(left) + len(right) > MAX_LIST:
        reason = f"the list gets longer than {MAX_LIST} items"
        raise ExpressionError(reason, column, text="+", hint="Use a larger step in range.")
    return [*left, *right]


def calculate(first: Evaluator, steps: Sequence[Step]) -> Evaluator:
    """`first` with operators applied to it from left to right."""

    def evaluate(values: Mapping[str, object]) -> object:
        result: object = first(values)
        for sign, column, part in steps:
            other = part(values)
            if sign == "+" and isinstance(result, list | tuple) and isinstance(other, list | tuple):
                result = _joined(result, other, column)
                continue
            left, right = _operand(result, sign, column), _operand(other, sign, column)
            try:
                result = BINARY[sign](left, right)
            except ZeroDivisionError:
                raise ExpressionError("a division by zero", column, text=sign, hint="Guard it with a `when`.") from None
            except OverflowError:
                result = MAX_NUMBER + 1
            if not abs(result) <= MAX_NUMBER:
                raise ExpressionError("the result is too large", column, text=sign, hint="Stay below 2 ** 63.")
        return result

    return evaluate


def compare(first: Evaluator, steps: Sequence[Step]) -> Evaluator:
    """A chain of comparisons, which holds when each holds."""

    def evaluate(values: Mapping[str, object]) -> object:
        left = first(values)
        for sign, column, part in steps:
            right = part(values)
            if not _holds(sign, left, right, column):
                return False
            left = right
        return True

    return evaluate


def _holds(sign: str, left: object, right: object, column: int) -> bool:
    if sign in ("is", "is not"):
        return (left is right) is (sign == "is")
    if sign in ("==", "!="):
        return _same(left, right, sign, column) is (sign == "==")
    if sign in ("in", "not in"):
        if not isinstance(right, list | tuple):
            raise ExpressionError(
                f"`{sign}` needs a list, but here is {_shown(right)}", column, text=sign, hint='Write x in ["a", "b"].'
            )
        return any(_same(left, item, sign, column) for item in right) is (sign == "in")
    if kind_of(left) != kind_of(right) or kind_of(left) not in ("a number", "a text"):
        hint = _GUARD if left is None or right is None else "Compare a number with a number, a text with a text."
        reason = f"{sign} cannot compare {_shown(left)} with {_shown(right)}"
        raise ExpressionError(reason, column, text=sign, hint=hint)
    return _ORDER[sign](left, right)


def _same(left: object, right: object, sign: str, column: int) -> bool:
    """Equality; values of different kinds are never equal, so to compare them is a mistake unless one is none."""
    if left is None or right is None:
        return left is right
    if kind_of(left) != kind_of(right):
        reason = f"{sign} compares {_shown(left)}, {kind_of(left)}, with {_shown(right)}, {kind_of(right)}"
        raise ExpressionError(reason, column, text=sign, hint="They are never equal: compare values of one kind.")
    if isinstance(left, list | tuple) and isinstance(right, list | tuple):
        return list(left) == list(right)
    return left == right


def as_list(parts: Sequence[Evaluator], column: int) -> Evaluator:
    """A list of numbers and texts."""

    def evaluate(values: Mapping[str, object]) -> object:
        items = [part(values) for part in parts]
        if any(isinstance(item, list | tuple) for item in items):
            raise ExpressionError("a list holds numbers and texts only", column, text="[", hint="Write one flat list.")
        return items

    return evaluate


def call(token: Token, parts: Sequence[Evaluator]) -> Evaluator:
    """The function that `token` names, with its arguments; raises `ExpressionError` when their count is wrong."""
    least, most, function = FUNCTIONS[token.text]
    if not least <= len(parts) <= most:
        counts = str(least) if least == most else f"{least} to {most}" if most < _MANY else f"{least} or more"
        reason = f"{token.text} takes {counts} value{'' if counts == '1' else 's'}, not {len(parts)}"
        raise ExpressionError(reason, token.column, text=token.text, hint="Give as many.")

    def evaluate(values: Mapping[str, object]) -> object:
        try:
            return function(*(part(values) for part in parts))
        except _Misfit as misfit:
            reason = f"{token.text} {misfit}"
            raise ExpressionError(reason, token.column, text=token.text, hint=misfit.hint) from None

    return evaluate


class _Misfit(Exception):
    """A function cannot work with its arguments."""

    def __init__(self, reason: str, hint: str) -> None:
        self.hint = hint
        super().__init__(reason)


def _number(value: object) -> int | float:
    if kind_of(value) != "a number":
        hint = _GUARD if value is None else "Give it numbers."
        raise _Misfit(f"needs a number, but here is {_shown(value)}", hint)
    return value  # type: ignore[return-value]


def _extreme(pick: Callable[[list[int | float]], int | float]) -> Callable[..., object]:
    def function(*items: object) -> object:
        if len(items) == 1 and isinstance(items[0], list | tuple):
            items = tuple(items[0])
        numbers = [_number(item) for item in items]
        if not numbers:
            raise _Misfit("needs at least one number", "Give it a list that is not empty.")
        return pick(numbers)

    return function


def _length(items: object) -> int:
    if not isinstance(items, list | tuple | str):
        raise _Misfit(f"needs a list or a text, but here is {_shown(items)}", "Give it a list.")
    return len(items)


def _list(items: object) -> list[object]:
    if not isinstance(items, list | tuple):
        raise _Misfit(f"needs a list, but here is {_shown(items)}", "Write [value].")
    return list(items)


def _range(*bounds: object) -> list[int]:
    numbers = [_number(bound) for bound in bounds]
    if not all(isinstance(number, int) for number in numbers):
        raise _Misfit("needs whole numbers", "Write int(value), or // instead of /.")
    if numbers[2:] == [0]:
        raise _Misfit("cannot go in steps of 0", "Give another step.")
    steps = range(*numbers)  # type: ignore[arg-type]
    if steps[MAX_LIST:]:
        raise _Misfit(f"gives more than {MAX_LIST} numbers", "Use a larger step.")
    return list(steps)


def _sort(items: object) -> list[int | float]:
    return sorted(_number(item) for item in _list(items))


def _unique(items: object) -> list[object]:
    return list(dict.fromkeys(_list(items)))


_MANY = 500
# Name → fewest arguments, most arguments, function. As a filter, the value before the bar is the first argument.
FUNCTIONS: Mapping[str, tuple[int, int, Callable[..., object]]] = {
    "min": (1, _MANY, _extreme(min)),
    "max": (1, _MANY, _extreme(max)),
    "abs": (1, 1, lambda value: abs(_number(value))),
    "int": (1, 1, lambda value: int(_number(value))),
    "round": (1, 1, lambda value: round(_number(value))),
    "len": (1, 1, _length),
    "length": (1, 1, _length),
    "list": (1, 1, _list),
    "sort": (1, 1, _sort),
    "unique": (1, 1, _unique),
    "range": (1, 3, _range),
    "default": (2, 2, lambda value, other: other if value is None else value),
}
