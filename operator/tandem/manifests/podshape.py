"""Whether a podTemplate has the fields and types of a pod, by the API of the Kubernetes release in `podfields`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from tandem.api.mistakes import near, simplified, words_of
from tandem.api.podfields import FIELDS, RELEASE, TOP
from tandem.api.podplaces import place_of
from tandem.api.problems import Problem, refuse, shorten
from tandem.api.quantity import QUANTITY

MAX_DEPTH = 32
MAX_TOLD = 50
_WORDS = {
    "map": "dict_type",
    "list": "list_type",
    "str": "string_type",
    "int": "int_type",
    "bool": "bool_type",
    "quantity": "quantity",
}


@dataclass(frozen=True, slots=True)
class Shape:
    """What is wrong with a podTemplate: the first `MAX_TOLD` of all.

    `mistakes` are values of a type that no release takes. `unknown` are fields that our release does not have: most
    likely misspelt, but a newer API server may know them.
    """

    mistakes: tuple[Problem, ...] = ()
    unknown: tuple[Problem, ...] = ()


def shape_of(overlay: Mapping[str, Any], path: str) -> Shape:
    """Compares an overlay, at `path`, with the API; raises `Refused` for one that is nested too deeply.

    A null is right everywhere in a map, where it removes the field.
    """
    _check_depth(overlay, path)
    told = list(islice(_compare(overlay, TOP, path), MAX_TOLD))
    return Shape(
        mistakes=tuple(problem for problem, known in told if known),
        unknown=tuple(problem for problem, known in told if not known),
    )


def _check_depth(overlay: Mapping[str, Any], path: str) -> None:
    """Refuses what no pod has and no parser need bear; without recursion."""
    waiting: list[tuple[Any, str, int]] = [(overlay, path, 0)]
    while waiting:
        value, where, depth = waiting.pop()
        if depth > MAX_DEPTH:
            raise refuse(
                where, None, f"nested deeper than {MAX_DEPTH} levels", "No field of a pod is so deep: remove it."
            )
        if isinstance(value, Mapping):
            waiting += [(inner, f"{where}.{key}", depth + 1) for key, inner in value.items()]
        elif isinstance(value, list):
            waiting += [(inner, f"{where}[{index}]", depth + 1) for index, inner in enumerate(value)]


def _compare(value: Any, kind: str, path: str) -> Iterator[tuple[Problem, bool]]:
    """What is wrong with a value of type `kind`, each with whether its field is known."""
    if kind.startswith("["):
        if not isinstance(value, list):
            yield _wrong(value, "list", path), True
            return
        for index, item in enumerate(value):
            yield from _compare(item, kind[1:-1], f"{path}[{index}]")
    elif kind in FIELDS or kind.startswith("{"):
        if not isinstance(value, Mapping):
            yield _wrong(value, "map", path), True
            return
        for key, item in value.items():
            known = kind[1:-1] if kind.startswith("{") else FIELDS[kind].get(key)
            if known is None:
                if not key.startswith("$"):  # a directive: for the merge to judge
                    yield _unknown(key, item, kind, path), False
            elif item is not None:
                yield from _compare(item, known, f"{path}.{key}")
    elif not _fits(value, kind):
        yield _wrong(value, kind, path), True


def _fits(value: Any, kind: str) -> bool:
    match kind:
        case "str":
            return isinstance(value, str)
        case "bool":
            return isinstance(value, bool)
        case "int":
            return (isinstance(value, int) or (isinstance(value, float) and value.is_integer())) and value is not True
        case "quantity":
            plain = isinstance(value, int | float) and not isinstance(value, bool) and value >= 0
            return plain or (isinstance(value, str) and re.match(QUANTITY, value) is not None)
    return True


def _wrong(value: Any, kind: str, path: str) -> Problem:
    reason, fix = words_of({"type": _WORDS[kind], "input": value})
    return Problem(path, "null" if value is None else _scalar(value), reason, fix)


def _unknown(key: str, value: Any, kind: str, path: str) -> Problem:
    reason = f"a pod of Kubernetes {RELEASE} has no such field here"
    return Problem(f"{path}.{key}", _scalar(value), reason, _right_name(key, kind, path))


def _right_name(key: str, kind: str, path: str) -> str:
    found = near(key, list(FIELDS[kind]))
    if found is not None and simplified(found) == simplified(key):
        return f"Did you mean {found}?"
    elsewhere = place_of(key)
    if elsewhere is not None:
        return f"It belongs below {'.'.join(filter(None, ('podTemplate', elsewhere)))}."
    if found is not None:
        return f"Did you mean {found}?"
    above = re.sub(r"\[\d+\]", "", path.partition("podTemplate")[2])
    return f"Remove it; known here: kubectl explain pod{above}"


def _scalar(value: Any) -> str:
    """A scalar as text; of maps and lists nothing, which are long and may hold what is secret."""
    return "" if isinstance(value, Mapping | list) else shorten(value)
