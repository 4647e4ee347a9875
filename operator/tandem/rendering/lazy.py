"""A mapping whose values are made when they are first asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Lazy(Mapping[K, V]):
    """Keys that are known, and for each the call that makes its value; a value is made once and kept.

    From outside it is a value: what the calls give must depend on nothing that changes. Threads may share it; two that
    ask at the same moment may both make a value, and one of the two equal ones is kept.
    """

    def __init__(self, makers: Mapping[K, Callable[[], V]]) -> None:
        self._makers = dict(makers)
        self._made: dict[K, V] = {}

    def __getitem__(self, key: K) -> V:
        if key not in self._made:
            self._made[key] = self._makers[key]()
        return self._made[key]

    def __contains__(self, key: object) -> bool:
        return key in self._makers

    def __iter__(self) -> Iterator[K]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)

    def __repr__(self) -> str:
        return f"Lazy({list(self._makers)})"


def with_values(mapping: Mapping[K, V], values: Mapping[K, V]) -> Mapping[K, V]:
    """`mapping` with `values` over it; what is not made yet is not made by this."""
    makers: dict[K, Callable[[], V]] = {key: partial(mapping.__getitem__, key) for key in mapping}
    return Lazy(makers | {key: partial(values.__getitem__, key) for key in values})


class Late(Mapping[K, V]):
    """A mapping that is made as a whole when it is first looked into."""

    def __init__(self, make: Callable[[], Mapping[K, V]]) -> None:
        self._make = make
        self._made: Mapping[K, V] | None = None

    @property
    def _all(self) -> Mapping[K, V]:
        if self._made is None:
            self._made = self._make()
        return self._made

    def __getitem__(self, key: K) -> V:
        return self._all[key]

    def __iter__(self) -> Iterator[K]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)
