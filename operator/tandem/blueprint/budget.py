"""A blueprint against the upper bounds that somebody set."""

from __future__ import annotations

from tandem.api.problems import Problem
from tandem.blueprint.model import Blueprint


def over_budget(
    blueprint: Blueprint,
    *,
    max_params: int | None = None,
    max_weight_bytes: int | None = None,
    max_context: int | None = None,
) -> tuple[Problem, ...]:
    """What is above its bound, each with both numbers; a bound for something that is not known counts as broken."""
    bounds = (
        ("maxParams", max_params, blueprint.total_params, "parameters"),
        ("maxWeightBytes", max_weight_bytes, blueprint.weight_bytes, "bytes of weights"),
        ("maxContext", max_context, blueprint.max_seq_len, "tokens in its longest sequence"),
    )
    return tuple(
        problem
        for name, bound, value, what in bounds
        if bound is not None and (problem := _over(f"spec.budget.{name}", bound, value, what)) is not None
    )


def _over(path: str, bound: int, value: int | None, what: str) -> Problem | None:
    if bound < 1:
        return Problem(path, str(bound), "a bound is a whole number above 0", "Correct it, or remove it.")
    if value is None:
        return Problem(path, str(bound), f"the model does not say how many {what} it has", "Declare the number.")
    if value <= bound:
        return None
    return Problem(path, str(bound), f"the model has {value} {what}", "Use a smaller model, or raise the bound.")
