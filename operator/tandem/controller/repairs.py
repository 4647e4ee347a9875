"""Objects that others keep changing are put back ever more rarely: two that never yield would write without end."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

from tandem.controller.plan import Apply, Plan
from tandem.kube.cache import Ref

logger = logging.getLogger(__name__)

# Repairs of one object that are made at once; after them each waits twice as long as the one before.
FREE = 5
LONGEST_SECONDS = 60.0
FORGOTTEN_AFTER_SECONDS = 300.0
# Moves step by step while a revision takes over.
_OURS_TO_MOVE = ("spec.replicas",)


@dataclass(frozen=True, slots=True)
class _Known:
    digest: str
    count: int
    at: float


class Repairs:
    """The repairs of one ModelDeployment's objects: writes of what was written before and is not so any more."""

    def __init__(self) -> None:
        self._known: dict[Ref, _Known] = {}

    def due(self, plan: Plan, *, applied: dict[tuple[str, str], str], now: float) -> tuple[Plan, float | None]:
        """`plan` without the repairs that must wait, and the seconds until the first of them is due.

        `applied` are the digests as last written, `now` is monotonic time.
        """
        waits: dict[Ref, float] = {}
        for apply in plan.applies:
            was_written = applied.get((apply.ref.kind, apply.ref.name)) == apply.digest
            if was_written and apply.why not in ((), _OURS_TO_MOVE):
                wait = self._repair(apply, now)
                if wait > 0:
                    waits[apply.ref] = wait
        if not waits:
            return plan, None
        return replace(plan, applies=tuple(a for a in plan.applies if a.ref not in waits)), min(waits.values())

    def _repair(self, apply: Apply, now: float) -> float:
        """Counts a repair that may be made now; returns the seconds to wait for one that may not."""
        known = self._known.get(apply.ref)
        if known is None or known.digest != apply.digest or now - known.at > FORGOTTEN_AFTER_SECONDS:
            known = _Known(apply.digest, 0, now)
        pause = min(2.0 ** (known.count - FREE), LONGEST_SECONDS) if known.count >= FREE else 0.0
        if now < known.at + pause:
            return known.at + pause - now
        self._known[apply.ref] = _Known(apply.digest, known.count + 1, now)
        if known.count == FREE:
            text = "%s: somebody changes %s again and again; it is put back ever more rarely from now on"
            logger.warning(text, apply.ref, ", ".join(apply.why[:5]))
        return 0.0
