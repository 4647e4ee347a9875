"""What this process remembers of its own writes; all of it can be lost, at the price of some needless work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tandem.controller.apply import Outcome
from tandem.controller.desired import Desired, Rendered
from tandem.controller.plan import Plan, Seen, Tolerated
from tandem.controller.repairs import Repairs
from tandem.kube.cache import Entry, Ref


@dataclass
class Ledger:
    """For one ModelDeployment: the digest of each object as last written (by kind and name), differences that the API
    server insists on, which versions of which objects were found to be as they should be, and the workloads of the
    workers, those of older revisions too while they serve."""

    uid: str
    applied: dict[tuple[str, str], str] = field(default_factory=dict)
    tolerated: dict[Ref, Tolerated] = field(default_factory=dict)
    confirmed: dict[Ref, Seen] = field(default_factory=dict)
    workers: dict[Ref, Desired] = field(default_factory=dict)
    repairs: Repairs = field(default_factory=Repairs)

    def note(self, rendered: Rendered, plan: Plan, outcome: Outcome, *, held: Ref | None) -> None:
        """Takes down what a round has done; `held` is the router's Deployment when it had to stay as it is."""
        self.tolerated.update(outcome.tolerated)
        written = {apply.ref: apply.digest for apply in outcome.written}
        behind = {apply.ref for apply in plan.applies} | {other.ref for other in plan.not_ours} | set(plan.waiting)
        before, self.applied = self.applied, {}
        for desired in rendered.objects:
            key = (desired.ref.kind, desired.ref.name)
            if desired.ref in written:
                self.applied[key] = written[desired.ref]
            elif desired.ref not in behind and desired.ref != held:
                self.applied[key] = desired.digest
            elif key in before:
                self.applied[key] = before[key]
        if not plan.leftovers:
            self.workers.clear()
        self.workers |= {desired.ref: desired for desired in rendered.worker_loads}
        wanted = {desired.ref for desired in rendered.objects} | self.workers.keys()
        self.confirmed |= dict(plan.confirmed) | dict(outcome.confirmed)
        for memory in (self.confirmed, self.tolerated):
            for ref in memory.keys() - wanted:
                del memory[ref]


class Ledgers:
    """One ledger per ModelDeployment; one begun anew takes the inventory of the status as what was written last."""

    def __init__(self) -> None:
        self._ledgers: dict[Ref, Ledger] = {}

    def of(self, entry: Entry, document: Mapping[str, Any]) -> Ledger:
        """The ledger of a deployment; another one of the same name has another ledger."""
        ledger = self._ledgers.get(entry.ref)
        if ledger is None or ledger.uid != entry.uid:
            items = (document.get("status") or {}).get("inventory") or ()
            ledger = Ledger(entry.uid, {(item["kind"], item["name"]): item["hash"] for item in items})
            self._ledgers[entry.ref] = ledger
        return ledger

    def forget(self, ref: Ref) -> None:
        """Drops the ledger of a deployment that is gone."""
        self._ledgers.pop(ref, None)
