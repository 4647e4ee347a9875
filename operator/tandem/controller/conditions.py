"""metav1 conditions: what each says, and when it last changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from tandem.kube.clock import timestamp

Status = Literal["True", "False", "Unknown"]
LONGEST_MESSAGE = 2048


@dataclass(frozen=True, slots=True)
class Condition:
    """What one aspect is like now; an aspect that does not apply has no condition at all."""

    type: str
    status: Status
    reason: str
    message: str = ""

    @property
    def holds(self) -> bool:
        """Whether its status is True."""
        return self.status == "True"


def true(kind: str, reason: str, message: str = "") -> Condition:
    """A condition that holds."""
    return Condition(kind, "True", reason, message)


def false(kind: str, reason: str, message: str = "") -> Condition:
    """A condition that does not hold."""
    return Condition(kind, "False", reason, message)


def unknown(kind: str, reason: str, message: str = "") -> Condition:
    """A condition of which nobody knows whether it holds."""
    return Condition(kind, "Unknown", reason, message)


def as_status(
    conditions: Iterable[Condition], previous: Sequence[Mapping[str, Any]], *, generation: int, now: datetime
) -> list[dict[str, Any]]:
    """Conditions as a status has them; `lastTransitionTime` is kept from `previous` unless the status changed."""
    known = {condition["type"]: condition for condition in previous}
    shown = []
    for condition in conditions:
        before = known.get(condition.type)
        same = before is not None and before["status"] == condition.status
        shown.append(
            {
                "type": condition.type,
                "status": condition.status,
                "reason": condition.reason,
                "message": condition.message[:LONGEST_MESSAGE],
                "lastTransitionTime": before["lastTransitionTime"] if before is not None and same else timestamp(now),
                "observedGeneration": generation,
            }
        )
    return shown


def find(conditions: Iterable[Mapping[str, Any]] | None, kind: str) -> Mapping[str, Any] | None:
    """The condition of that type in a status."""
    return next((condition for condition in conditions or () if condition["type"] == kind), None)
