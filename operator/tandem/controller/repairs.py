"""Objects that others keep changing are put back ever more rarely, and whoever reads the status learns of it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace

from tandem.controller.contest import Contest
from tandem.controller.pace import Pace
from tandem.controller.plan import Apply, Plan
from tandem.kube.cache import Ref

logger = logging.getLogger(__name__)


class Repairs:
    """The repairs of one ModelDeployment's objects: writes of what was written before and is not so any more."""

    def __init__(self) -> None:
        self._pace: Pace[Ref] = Pace()
        self._contests: dict[Ref, Contest] = {}
        self._unnamed: dict[Ref, Contest] = {}

    @property
    def contests(self) -> tuple[Contest, ...]:
        """The objects that somebody keeps changing, as of the last look."""
        return tuple(self._contests.values())

    @property
    def unnamed(self) -> tuple[Contest, ...]:
        """Those of which nobody has found out yet who does it."""
        return tuple(self._unnamed.values())

    def name(self, contest: Contest, managers: tuple[str, ...]) -> None:
        """Takes down who it is; nobody is asked again."""
        self._unnamed.pop(contest.ref, None)
        self._contests[contest.ref] = replace(contest, managers=managers)
        logger.warning("%s", self._contests[contest.ref])

    def due(self, plan: Plan, *, applied: Mapping[tuple[str, str], str], now: float) -> tuple[Plan, float | None]:
        """`plan` without the repairs that must wait, and the seconds until there is something to do or to tell.

        `applied` are the digests as last written, `now` is monotonic time.
        """
        waits: dict[Ref, float] = {}
        for apply in plan.applies:
            if _is_repair(apply, applied):
                wait = self._pace.wait(apply.ref, (apply.digest, _replicas(apply)), now)
                if wait > 0:
                    waits[apply.ref] = wait
                if self._pace.contested(apply.ref, now) and apply.ref not in self._contests:
                    self._contests[apply.ref] = self._unnamed[apply.ref] = Contest(apply.ref, apply.why)
        ends = self._still_contested(now)
        if waits:
            plan = replace(plan, applies=tuple(apply for apply in plan.applies if apply.ref not in waits))
        return plan, min([*waits.values(), *ends], default=None)

    def failed(self, ref: Ref) -> None:
        """A write was refused: that it is due again is nobody else's doing."""
        self._pace.forget(ref)

    def _still_contested(self, now: float) -> list[float]:
        """Drops the fights that are over; the seconds until the others are, if nothing happens."""
        ends = {ref: self._pace.contested(ref, now) for ref in self._contests}
        for ref, left in ends.items():
            if not left:
                del self._contests[ref]
                self._unnamed.pop(ref, None)
        return [left for left in ends.values() if left]


def _is_repair(apply: Apply, applied: Mapping[tuple[str, str], str]) -> bool:
    """Whether what was written before is to be written again: it was changed, or deleted."""
    known = applied.get((apply.ref.kind, apply.ref.name))
    if apply.uid is None:
        return known == apply.digest
    # Deployments of older revisions are not among what was applied last.
    return bool(apply.why) and known in (None, apply.digest)


def _replicas(apply: Apply) -> object:
    """The replicas that a Deployment should have: they move step by step while a revision takes over."""
    return (apply.body.get("spec") or {}).get("replicas")
