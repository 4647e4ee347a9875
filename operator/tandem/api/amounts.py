"""What the amounts of a container's resources must obey beside being quantities."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Literal

from tandem.api.base import Rule
from tandem.api.quantity import quantity

Part = Literal["limits", "requests"]
Amounts = Mapping[str, int | str]

LEAST_MEMORY = "4Mi"
_LEAST_BYTES = Decimal(4 * 2**20)


def resource_rules() -> tuple[Rule, ...]:
    """The rules of a model with `limits` and `requests`."""
    return (
        *(_memory(part) for part in ("limits", "requests")),
        *(_whole(part) for part in ("limits", "requests")),
        Rule(
            cel=" && ".join(_below_limit(name) for name in ("cpu", "memory")),
            reason="a request must not be above its limit",
            fix="Lower the request or raise the limit.",
            field="requests",
            holds=lambda resources: not _above_limit(resources),
            found=_above_limit,
        ),
        Rule(
            reason="accelerators and other extended resources are requested in the amount of their limit",
            fix="Give them in limits only; the request follows.",
            field="requests",
            holds=lambda resources: not _unequal(resources),
            found=_unequal,
        ),
    )


def _below_limit(name: str) -> str:
    """Of one resource: over all of them the API server's bound on the cost of a rule would be exceeded."""
    limit, request = (f"self.{part}['{name}']" for part in ("limits", "requests"))
    absent = f"!has(self.limits) || !has(self.requests) || !('{name}' in self.limits) || !('{name}' in self.requests)"
    return f"({absent} || quantity(string({request})).compareTo(quantity(string({limit}))) <= 0)"


def _memory(part: Part) -> Rule:
    amount = f"quantity(string(self.{part}['memory']))"
    return Rule(
        cel=f"!has(self.{part}) || !('memory' in self.{part}) || string(self.{part}['memory']) == '0' "
        f"|| {amount}.compareTo(quantity('{LEAST_MEMORY}')) >= 0",
        reason=f"memory below {LEAST_MEMORY} is too little for any process; a number without a unit is bytes",
        fix="Add a unit, as in 8Gi.",
        field=part,
        key="memory",
        holds=lambda resources: _enough(_given(resources, part).get("memory", 0)),
        found=lambda resources: (str(_given(resources, part)["memory"]),),
    )


def _whole(part: Part) -> Rule:
    return Rule(
        reason="accelerators and other extended resources come in whole numbers",
        fix="Write a whole number, like 1.",
        field=part,
        holds=lambda resources: not _broken(_given(resources, part)),
        found=lambda resources: _broken(_given(resources, part)),
    )


def _above_limit(resources: Any) -> tuple[str, ...]:
    limits = _given(resources, "limits")
    return tuple(
        f"{name}: {amount} above {limits[name]}"
        for name, amount in _given(resources, "requests").items()
        if name in limits and _number(amount) > _number(limits[name])
    )


def _unequal(resources: Any) -> tuple[str, ...]:
    limits = _given(resources, "limits")
    return tuple(
        f"{name}: {amount}"
        for name, amount in _given(resources, "requests").items()
        if "/" in name and (name not in limits or _number(amount) != _number(limits[name]))
    )


def _broken(amounts: Amounts) -> tuple[str, ...]:
    return tuple(
        f"{name}: {amount}"
        for name, amount in amounts.items()
        if "/" in name and _number(amount) != _number(amount).to_integral_value()
    )


def _given(resources: Any, part: Part) -> Amounts:
    return getattr(resources, part) or {}


def _number(amount: int | str) -> Decimal:
    return quantity(amount) or Decimal(0)


def _enough(amount: int | str) -> bool:
    return str(amount) == "0" or _number(amount) >= _LEAST_BYTES
