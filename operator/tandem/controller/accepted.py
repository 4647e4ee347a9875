"""Resources that are known but not served yet say so, instead of staying silent."""

from __future__ import annotations

from tandem.controller.conditions import as_status, false
from tandem.controller.statuswriter import StatusWriter
from tandem.controller.verdict import Verdict
from tandem.kube.cache import Cache, Ref
from tandem.kube.clock import Clock


class NotServedYet:
    """Keeps `Accepted` False with reason NotServedYet on every object of a kind."""

    def __init__(self, cache: Cache, statuses: StatusWriter, clock: Clock, *, message: str) -> None:
        self._cache = cache
        self._statuses = statuses
        self._clock = clock
        self._message = message

    async def reconcile(self, ref: Ref) -> Verdict:
        """Brings the status of one object up to date."""
        entry = self._cache.get(ref)
        if entry is None or entry.deleting:
            self._statuses.forget(ref)
            return Verdict()
        obj = entry.object
        previous = obj.get("status") or {}
        generation = obj["metadata"].get("generation", 0)
        accepted = as_status(
            [false("Accepted", "NotServedYet", self._message)],
            previous.get("conditions") or (),
            generation=generation,
            now=self._clock.now(),
        )
        # What others say of it is theirs.
        others = [each for each in previous.get("conditions") or () if each["type"] != "Accepted"]
        status = {**previous, "observedGeneration": generation, "conditions": [*accepted, *others]}
        return Verdict(again_after=await self._statuses.write(entry, obj, status))
