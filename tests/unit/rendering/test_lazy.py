"""Mappings whose values are made late."""

import pytest

from tandem.rendering.lazy import Late, Lazy, with_values


def test_a_value_is_made_once_and_only_when_it_is_asked_for():
    made = []

    def make():
        made.append(1)
        return "value"

    lazy = Lazy({"a": make, "b": lambda: 1 / 0})

    assert (list(lazy), len(lazy), "b" in lazy, made) == (["a", "b"], 2, True, [])
    assert (lazy["a"], lazy["a"], made) == ("value", "value", [1])
    with pytest.raises(KeyError):
        lazy["c"]


def test_values_over_a_mapping_make_nothing_else():
    lazy = Lazy({"a": lambda: 1 / 0, "b": lambda: 2})

    over = with_values(lazy, {"a": 1, "c": 3})

    assert dict(over) == {"a": 1, "b": 2, "c": 3}
    assert list(lazy) == ["a", "b"]


def test_a_late_mapping_is_made_when_it_is_looked_into():
    made = []

    def make():
        made.append(1)
        return {"a": 1}

    late = Late(make)

    assert made == []
    assert (late.get("a"), late.get("b"), dict(late), len(late), made) == (1, None, {"a": 1}, 1, [1])
