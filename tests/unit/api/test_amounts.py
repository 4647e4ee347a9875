"""Amounts of resources: slips of units, and what does not go together."""

from __future__ import annotations

from typing import Any

import pytest

from tandem.api.load import parse_resource
from tandem.api.problems import Problem, Refused

AT = "spec.roles.agg.resources"


def problems(resources: dict[str, Any]) -> tuple[Problem, ...]:
    spec = {"model": {"pvc": {"claimName": "m"}}, "roles": {"agg": {"resources": resources}}}
    try:
        parse_resource(
            {"apiVersion": "tandem.dev/v1alpha1", "kind": "ModelDeployment", "metadata": {"name": "x"}, "spec": spec}
        )
    except Refused as refused:
        return refused.problems
    return ()


@pytest.mark.parametrize(
    "resources",
    [
        {"limits": {"memory": "8Gi", "cpu": 2, "nvidia.com/gpu": 1}},
        {"limits": {"memory": 8589934592}, "requests": {"memory": "8Gi"}},
        {"limits": {"cpu": "1500m"}, "requests": {"cpu": "1.5"}},
        {"requests": {"memory": "4Mi", "cpu": "1m"}},
        {"limits": {"memory": 0}, "requests": {"memory": "0"}},
        {"limits": {"nvidia.com/gpu": "1k"}, "requests": {"nvidia.com/gpu": 1000}},
        {"limits": {"cpu": 1}, "requests": {"memory": "1Gi"}},
    ],
)
def test_amounts_that_go_together_are_taken(resources):
    assert problems(resources) == ()


@pytest.mark.parametrize(
    ("resources", "path", "value", "fix"),
    [
        ({"limits": {"memory": 8}}, "limits.memory", "8", "Add a unit, as in 8Gi."),
        ({"requests": {"memory": "8m"}}, "requests.memory", "8m", "Add a unit, as in 8Gi."),
        ({"limits": {"memory": "4095Ki"}}, "limits.memory", "4095Ki", "Add a unit, as in 8Gi."),
        (
            {"limits": {"memory": "8Gi"}, "requests": {"memory": "16Gi"}},
            "requests",
            "memory: 16Gi above 8Gi",
            "Lower the request or raise the limit.",
        ),
        ({"limits": {"nvidia.com/gpu": "500m"}}, "limits", "nvidia.com/gpu: 500m", "Write a whole number, like 1."),
        (
            {"requests": {"nvidia.com/gpu": 1}},
            "requests",
            "nvidia.com/gpu: 1",
            "Give them in limits only; the request follows.",
        ),
        (
            {"requests": {"nvidia.com/gpu": 1}, "limits": {"nvidia.com/gpu": 2}},
            "requests",
            "nvidia.com/gpu: 1",
            "Give them in limits only; the request follows.",
        ),
    ],
)
def test_a_slip_is_told_with_the_amount(resources, path, value, fix):
    (problem,) = problems(resources)

    assert (problem.path, problem.value, problem.fix) == (f"{AT}.{path}", value, fix)


@pytest.mark.parametrize("amount", ["1e400", "1e999999", "1e99999999999999999999", "9" * 300, ".5"])
def test_amounts_of_any_size_are_judged_without_a_crash(amount):
    problems({"limits": {"memory": amount, "a/b": amount}, "requests": {"memory": amount, "a/b": 1}})
