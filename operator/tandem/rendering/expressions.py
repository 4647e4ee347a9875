"""The expressions of rules: a small, total part of Python's, compiled once to closures.

Numbers, text, lists, arithmetic, comparison, `and`/`or`/`not`, `a if c else b`, and the functions of `FUNCTIONS`. No
attribute, subscript, loop, keyword or name that is not declared; results are bounded. Nothing here can reach the
interpreter: only the node types below are known, everything else is refused at its column.
"""

from __future__ import annotations

import ast
import difflib
import operator
from collections.abc import Callable, Collection, Mapping

MAX_EXPRESSION_CHARACTERS = 500
MAX_LIST = 4096
MAX_NUMBER = 2**63

Evaluator = Callable[[Mapping[str, object]], object]


class ExpressionError(Exception):
    """A wrong expression or a value it cannot work with; `column` counts from 0 within the expression."""

    def __init__(self, message: str, column: int = 0) -> None:
        self.column = column
        super().__init__(message)


def _range(*bounds: object) -> list[int]:
    numbers = [_integer(bound) for bound in bounds]
    if not 1 <= len(numbers) <= 3:
        raise ExpressionError("range takes one to three whole numbers")
    try:
        steps = range(*numbers)
    except ValueError as error:
        raise ExpressionError(str(error)) from None
    if len(steps) > MAX_LIST:
        raise ExpressionError(f"range gives {len(steps)} numbers; at most {MAX_LIST} are allowed")
    return list(steps)


def _integer(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= MAX_NUMBER:
        raise ExpressionError(f"{value!r} is not a number".replace("None", "no value"))
    return int(value)


FUNCTIONS: Mapping[str, Callable[..., object]] = {
    "min": min,
    "max": max,
    "len": len,
    "abs": abs,
    "round": round,
    "int": _integer,
    "range": _range,
}
_BINARY: Mapping[type[ast.operator], tuple[str, Callable[[float, float], float]]] = {
    ast.Add: ("+", operator.add),
    ast.Sub: ("-", operator.sub),
    ast.Mult: ("*", operator.mul),
    ast.Div: ("/", operator.truediv),
    ast.FloorDiv: ("//", operator.floordiv),
    ast.Mod: ("%", operator.mod),
}
_COMPARE: Mapping[type[ast.cmpop], Callable[..., bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda item, items: item in items,
    ast.NotIn: lambda item, items: item not in items,
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
}
_CONSTANTS: Mapping[str, object] = {"true": True, "false": False, "none": None}
_HINTS: Mapping[type[ast.AST], str] = {
    ast.Attribute: "dots are not allowed: names are flat",
    ast.Subscript: "brackets after a name are not allowed",
    ast.Pow: "powers are not allowed",
    ast.BitOr: "| is not allowed: write int(x) instead of x | int",
    ast.Lambda: "functions cannot be defined",
    ast.JoinedStr: "f-strings are not allowed",
    ast.ListComp: "comprehensions are not allowed: write range(1, n + 1)",
    ast.NamedExpr: ":= is not allowed",
}


def compile_expression(text: str, names: Collection[str]) -> Evaluator:
    """`text` as a function of the values of `names`; raises `ExpressionError`, as does the function itself."""
    if len(text) > MAX_EXPRESSION_CHARACTERS:
        raise ExpressionError(f"the expression is longer than {MAX_EXPRESSION_CHARACTERS} characters")
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except SyntaxError as error:
        raise ExpressionError(f"not an expression: {error.msg}", max((error.offset or 1) - 1, 0)) from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise ExpressionError(f"not an expression: {error}") from None
    return _Compiler(frozenset(names)).compile(tree.body)


class _Compiler:
    def __init__(self, names: frozenset[str]) -> None:
        self._names = names

    def compile(self, node: ast.expr) -> Evaluator:
        match node:
            case ast.Constant(value=value) if value is None or isinstance(value, bool | int | float | str):
                return self._constant(node, value)
            case ast.Name(id=name):
                return self._name(node, name)
            case ast.List(elts=items) | ast.Tuple(elts=items):
                parts = [self.compile(item) for item in items]
                return lambda values: [part(values) for part in parts]
            case ast.BoolOp(op=kind, values=items):
                return self._boolean(isinstance(kind, ast.And), [self.compile(item) for item in items])
            case ast.IfExp(test=test, body=body, orelse=other):
                condition, yes, no = self.compile(test), self.compile(body), self.compile(other)
                return lambda values: yes(values) if condition(values) else no(values)
            case ast.UnaryOp(op=ast.Not(), operand=item):
                part = self.compile(item)
                return lambda values: not part(values)
            case ast.UnaryOp(op=ast.USub(), operand=item):
                return self._arithmetic(node, "-", operator.sub, lambda _values: 0, self.compile(item))
            case ast.BinOp(left=left, op=kind, right=right) if type(kind) in _BINARY:
                sign, function = _BINARY[type(kind)]
                return self._arithmetic(node, sign, function, self.compile(left), self.compile(right))
            case ast.Compare(left=left, ops=kinds, comparators=items):
                return self._comparison(node, [_COMPARE[type(kind)] for kind in kinds], [left, *items])
            case ast.Call(func=ast.Name(id=name), args=items, keywords=[]) if name in FUNCTIONS:
                return self._call(node, name, [self.compile(item) for item in items])
        raise self._refusal(node)

    def _refusal(self, node: ast.expr) -> ExpressionError:
        if isinstance(node, ast.Call):
            called = node.func.id if isinstance(node.func, ast.Name) else "this"
            return ExpressionError(f"{called}() cannot be called; known: {', '.join(FUNCTIONS)}", node.col_offset)
        kind = type(node.op) if isinstance(node, ast.BinOp) else type(node)
        return ExpressionError(_HINTS.get(kind, f"{kind.__name__} is not allowed in rules"), node.col_offset)

    def _constant(self, node: ast.expr, value: object) -> Evaluator:
        if isinstance(value, int | float) and abs(value) > MAX_NUMBER:
            raise ExpressionError("the number is too large", node.col_offset)
        return lambda _values: value

    def _name(self, node: ast.expr, name: str) -> Evaluator:
        if name in _CONSTANTS:
            return self._constant(node, _CONSTANTS[name])
        if name not in self._names:
            near = difflib.get_close_matches(name, self._names, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(sorted(self._names))}"
            raise ExpressionError(f"there is no name {name}; {hint}", node.col_offset)
        return lambda values: values[name]

    def _boolean(self, conjunction: bool, parts: list[Evaluator]) -> Evaluator:
        def evaluate(values: Mapping[str, object]) -> object:
            result: object = None
            for part in parts:
                result = part(values)
                if bool(result) is not conjunction:
                    break
            return result

        return evaluate

    def _arithmetic(
        self, node: ast.expr, sign: str, function: Callable[[float, float], float], left: Evaluator, right: Evaluator
    ) -> Evaluator:
        def evaluate(values: Mapping[str, object]) -> object:
            first, second = left(values), right(values)
            for operand in (first, second):
                if isinstance(operand, bool) or not isinstance(operand, int | float):
                    known = "no value" if operand is None else repr(operand)
                    hint = " (guard it: `when x:` or `x or 0`)" if operand is None else ""
                    raise ExpressionError(f"{sign} needs numbers, but here is {known}{hint}", node.col_offset)
            try:
                result = function(first, second)  # type: ignore[arg-type]
            except (ZeroDivisionError, OverflowError) as error:
                raise ExpressionError(str(error), node.col_offset) from None
            if not abs(result) <= MAX_NUMBER:
                raise ExpressionError("the result is too large", node.col_offset)
            return result

        return evaluate

    def _comparison(self, node: ast.expr, tests: list[Callable[..., bool]], operands: list[ast.expr]) -> Evaluator:
        parts = [self.compile(operand) for operand in operands]

        def evaluate(values: Mapping[str, object]) -> object:
            left = parts[0](values)
            for test, part in zip(tests, parts[1:], strict=True):
                right = part(values)
                try:
                    if not test(left, right):
                        return False
                except TypeError:
                    message = f"{left!r} and {right!r} cannot be compared this way"
                    raise ExpressionError(message.replace("None", "no value"), node.col_offset) from None
                left = right
            return True

        return evaluate

    def _call(self, node: ast.expr, name: str, parts: list[Evaluator]) -> Evaluator:
        function = FUNCTIONS[name]

        def evaluate(values: Mapping[str, object]) -> object:
            try:
                return function(*(part(values) for part in parts))
            except (TypeError, ValueError, OverflowError) as error:
                message = f"{name}() cannot work with these values: {error}"
                raise ExpressionError(message, node.col_offset) from None
            except ExpressionError as error:
                raise ExpressionError(str(error), error.column or node.col_offset) from None

        return evaluate
