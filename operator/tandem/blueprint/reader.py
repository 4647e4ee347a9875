"""Reads numbers, switches and lists out of a config.json; every mistake is kept with its place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Union

from tandem.api.problems import Problem, Refused, shorten

# Above every model that exists by orders of magnitude; what is built from them stays small and exact.
MAX_VALUE = 2**24
MAX_LAYERS = 4096
_FIX = "Correct config.json."
_REQUIRED = "required"


@dataclass(frozen=True, slots=True)
class Key:
    """A number under the first of `names` that is there. `default`: "required", a number, or another number's spec."""

    names: tuple[str, ...]
    default: Number | str | None = _REQUIRED
    low: int = 1
    high: int = MAX_VALUE


@dataclass(frozen=True, slots=True)
class Switch:
    """A true or false under `name`."""

    name: str
    default: bool = False


Number = Union[int, Key, Callable[["Reader"], int]]  # noqa: UP007 - a forward reference inside
Flag = bool | Switch


def key(*names: str, default: Number | str | None = _REQUIRED, low: int = 1, high: int = MAX_VALUE) -> Key:
    """A `Key` in one line."""
    return Key(names, default, low, high)


class Reader:
    """One part of a config.json; `place` stands before each key in messages."""

    def __init__(self, config: Mapping[str, object], place: str, problems: list[Problem] | None = None) -> None:
        self.config = config
        self.place = place
        self.problems: list[Problem] = [] if problems is None else problems

    def refuse(self, name: str, value: object, reason: str, fix: str = _FIX) -> None:
        """Keeps a problem; one place is told once."""
        problem = Problem(f"{self.place}{name}", shorten(value), reason, fix)
        if problem not in self.problems:
            self.problems.append(problem)

    def check(self) -> None:
        """Raises `Refused` when there was a problem."""
        if self.problems:
            raise Refused(self.problems)

    def number(self, spec: Number) -> int:
        """The number that `spec` asks for; 1 where there is none, which is then a problem."""
        if isinstance(spec, int):
            return spec
        if not isinstance(spec, Key):
            return spec(self)
        found = self.optional(spec)
        if found is None and spec.default == _REQUIRED:
            name = spec.names[0]
            if not any(self.config.get(other) is not None for other in spec.names):
                self.refuse(name, None, "required, but missing", f"Add {name}, a whole number.")
        return found if found is not None else 1

    def optional(self, spec: Key) -> int | None:
        """The number, its default, or None."""
        for name in spec.names:
            value = self.config.get(name)
            if value is None:
                continue
            if type(value) is not int:
                self.refuse(name, value, "a whole number is needed here")
                return None
            if not spec.low <= value <= spec.high:
                self.refuse(name, value, f"the number must be from {spec.low} to {spec.high}")
                return None
            return value
        if spec.default is None or isinstance(spec.default, str):
            return None
        return self.number(spec.default)

    def flag(self, spec: Flag) -> bool:
        """The switch's value; one that is null has its default."""
        if isinstance(spec, bool):
            return spec
        value = self.config.get(spec.name)
        if value is None:
            return spec.default
        if not isinstance(value, bool):
            self.refuse(spec.name, value, "true or false is needed here")
            return spec.default
        return value

    def words(self, name: str, *, known: tuple[str, ...], count: int) -> tuple[str, ...] | None:
        """A list of `count` words, each one of `known`; None when it is not given, or wrong."""
        value = self.config.get(name)
        if value is None:
            return None
        if not isinstance(value, list):
            self.refuse(name, value, "a list is needed here")
            return None
        if len(value) != count:
            self.refuse(name, f"{len(value)} items", f"one item is needed for each of {count} layers")
            return None
        wrong = next((index for index, item in enumerate(value) if item not in known), None)
        if wrong is not None:
            self.refuse(f"{name}[{wrong}]", value[wrong], f"a layer is one of {', '.join(known)}")
            return None
        return tuple(value)

    def numbers(self, name: str) -> frozenset[int]:
        """A list of whole numbers from 0; empty when it is not given."""
        value = self.config.get(name)
        if value is None:
            return frozenset()
        if not isinstance(value, list) or any(type(item) is not int or item < 0 for item in value):
            self.refuse(name, value, "a list of whole numbers from 0 is needed here")
            return frozenset()
        return frozenset(value)

    def part(self, name: str) -> Reader:
        """The map under `name`, empty when there is none; its problems are kept with these."""
        value = self.config.get(name)
        if value is not None and not isinstance(value, dict):
            self.refuse(name, value, "a map is needed here")
        return Reader(value if isinstance(value, dict) else {}, f"{self.place}{name}.", self.problems)
