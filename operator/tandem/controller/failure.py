"""A defect of the operator shows on the resource that it fails on, once, until a reconcile ends well again."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from tandem.controller.conditions import as_status, false, find, true
from tandem.controller.statuswriter import StatusWriter
from tandem.kube.cache import Cache, Ref
from tandem.kube.clock import Clock

REASON = "InternalError"


class FailureReporter:
    """Writes the condition and the Event of failures that nobody foresaw."""

    def __init__(self, cache: Cache, statuses: StatusWriter, clock: Clock) -> None:
        self._cache = cache
        self._statuses = statuses
        self._clock = clock

    async def report(self, ref: Ref, error: Exception) -> float | None:
        """Tells of `error` on `ref` unless that is told already; seconds to try again after, if any. Raises ApiError
        and Fenced."""
        entry = self._cache.get(ref)
        if entry is None or entry.deleting:
            return None
        document = entry.object
        status = failed_status(document, error, now=self._clock.now())
        return await self._statuses.write(entry, document, status)


def failed_status(document: Mapping[str, Any], error: Exception, *, now: datetime) -> dict[str, Any]:
    """The status of a resource that the operator failed on: what was true stays, and that it failed is added.

    Equal to the status that it has when the failure is in it: the text of an error may differ from try to try.
    """
    previous: Mapping[str, Any] = document.get("status") or {}
    generation = document["metadata"].get("generation", 0)
    known = previous.get("conditions") or ()
    degraded = find(known, "Degraded")
    if degraded and (degraded["reason"], degraded["observedGeneration"]) == (REASON, generation):
        return dict(previous)
    message = f"the operator failed on this resource and tries again: {type(error).__name__}: {error}"
    told = [true("Degraded", REASON, message), false("Progressing", REASON, message)]
    ready = find(known, "Ready")
    if ready is None or ready["observedGeneration"] != generation:
        # What Ready says is of an earlier spec: nobody knows whether this one is met.
        told.append(false("Ready", REASON, message))
    replaced = {condition.type for condition in told}
    kept = [condition for condition in known if condition["type"] not in replaced]
    return {**previous, "conditions": [*kept, *as_status(told, known, generation=generation, now=now)]}
