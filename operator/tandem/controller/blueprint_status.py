"""What a ModelBlueprint's status says of a blueprint: pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tandem.blueprint.budget import over_budget
from tandem.blueprint.card import bytes_per_format, kv_kind
from tandem.blueprint.model import Blueprint
from tandem.blueprint.packed import pack
from tandem.controller.conditions import Condition, Status, false, true

_FACTS = ("digest", "totalParams", "activeParams", "weightBytes", "kv", "maxSeqLen", "facts")


def facts_of(
    blueprint: Blueprint, name: str, budget: Mapping[str, int], previous: Mapping[str, Any], *, reason: str = "Parsed"
) -> tuple[dict[str, Any], list[Condition]]:
    """(facts, conditions) of a status. Facts never change: what was read first, from the source `name`, stays."""
    before = previous.get("digest")
    if before is not None and before != blueprint.digest:
        message = (
            f"{name}: its content has changed (digest {blueprint.digest[:12]}, read first {before[:12]}), and "
            "facts never change: delete this ModelBlueprint if a deployment made it, else create a new one"
        )
        return kept(previous), [false("Parsed", "ContentChanged", message)]
    return _facts(blueprint), [true("Parsed", reason, _summary(blueprint)), *_within(blueprint, budget)]


def kept(previous: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of an earlier status."""
    return {name: previous[name] for name in _FACTS if name in previous}


def conditions_in(previous: Mapping[str, Any]) -> list[Condition]:
    """The conditions of an earlier status."""
    found = previous.get("conditions") or ()
    return [Condition(each["type"], _status(each), each["reason"], each.get("message", "")) for each in found]


def _status(condition: Mapping[str, Any]) -> Status:
    value = condition["status"]
    return "True" if value == "True" else "False" if value == "False" else "Unknown"


def _within(blueprint: Blueprint, budget: Mapping[str, int]) -> list[Condition]:
    if not budget:
        return []
    problems = over_budget(
        blueprint,
        max_params=budget.get("maxParams"),
        max_weight_bytes=budget.get("maxWeightBytes"),
        max_context=budget.get("maxContext"),
    )
    if not problems:
        return [true("WithinBudget", "WithinBudget")]
    return [false("WithinBudget", "OverBudget", "; ".join(map(str, problems)))]


def _facts(blueprint: Blueprint) -> dict[str, Any]:
    structure = blueprint.structure
    facts: dict[str, Any] = {
        "digest": blueprint.digest,
        "totalParams": blueprint.total_params,
        "activeParams": blueprint.active_params,
        "weightBytes": dict(bytes_per_format(blueprint)) or None,
        "maxSeqLen": blueprint.max_seq_len,
        "facts": pack(blueprint),
    }
    if structure is not None and blueprint.kv_bytes_per_token is not None:
        facts["kv"] = {"kind": kv_kind(structure), "bytesPerToken": blueprint.kv_bytes_per_token}
    return {name: value for name, value in facts.items() if value is not None}


def _summary(blueprint: Blueprint) -> str:
    if blueprint.total_params is None:
        return "declared numbers"
    active = f", {blueprint.active_params:,} per token" if blueprint.is_moe else ""
    without = f"; its other parts ({', '.join(blueprint.uncounted)}) are not counted" if blueprint.uncounted else ""
    return f"{blueprint.architecture}: {blueprint.total_params:,} parameters{active}{without}"
