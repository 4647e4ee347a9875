"""How a mistake is told to programs: the place in parts, values with their type."""

from __future__ import annotations

import pytest

from tandem.api.problems import Place, Problem, refuse


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("spec.mode", Place("spec.mode")),
        ("d.yaml:3:7: spec.mode", Place("spec.mode", "d.yaml", 3, 7)),
        ("a: b/d.yaml:3:7", Place("", "a: b/d.yaml", 3, 7)),
        ("rules/torch.rule:4", Place("", "rules/torch.rule", 4)),
        ("standard input:1:1: spec.roles.agg.podTemplate.metadata.labels.a:b", None),
    ],
)
def test_a_path_is_told_in_parts(path, place):
    expected = place or Place("spec.roles.agg.podTemplate.metadata.labels.a:b", "standard input", 1, 1)

    assert Problem(path, "", "", "").place == expected


@pytest.mark.parametrize("value", ["x", 5, 0.5, True])
def test_a_value_keeps_its_type(value):
    (problem,) = refuse("spec.x", value, "wrong", "Correct it.").problems

    assert problem.as_dict()["value"] == value
    assert type(problem.as_dict()["value"]) is type(value)


def test_what_there_is_not_is_null():
    (problem,) = refuse("spec.x", None, "wrong", "Correct it.").problems

    assert [problem.as_dict()[key] for key in ("value", "file", "line", "column")] == [None] * 4
