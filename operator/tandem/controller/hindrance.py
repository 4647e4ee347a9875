"""Why objects could not be written, as the condition `Rendered`."""

from __future__ import annotations

from tandem.controller.apply import Failure, Outcome
from tandem.controller.conditions import Condition, false
from tandem.controller.plan import NotOurs, Plan


def hindrance(plan: Plan, outcome: Outcome) -> Condition | None:
    """The condition to show; None when all that was to be written was written."""
    not_ours = {other.ref: other for other in (*plan.not_ours, *outcome.not_ours)}
    if not_ours:
        return false("Rendered", "ObjectNotOwned", " ".join(_not_ours_text(other) for other in not_ours.values()))
    if outcome.failures:
        return false("Rendered", _reason(outcome.failures[0]), "\n".join(map(_failure_text, outcome.failures)))
    if plan.waiting:
        names = ", ".join(str(ref) for ref in plan.waiting)
        return false("Rendered", "WaitingForDeletion", f"{names}: still being deleted, and made anew after that")
    return None


def _not_ours_text(other: NotOurs) -> str:
    whose = f"belongs to {other.owner}" if other.owner else "was not made by Tandem for this deployment"
    return f"{other.ref} exists and {whose}: rename this ModelDeployment, or delete that object."


def _failure_text(failure: Failure) -> str:
    fields = "; ".join(f"{cause.path}: {cause.message}" for cause in failure.error.causes if cause.path)
    return f"{failure.ref}: {fields or failure.error.message}"


def _reason(failure: Failure) -> str:
    error = failure.error
    if error.status == 403:
        return "QuotaExceeded" if "exceeded quota" in error.message else "Forbidden"
    return "ObjectRejected" if error.status in (400, 422) else "ApplyFailed"
