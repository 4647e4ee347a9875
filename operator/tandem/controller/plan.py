"""The difference between what should be and what is, as writes: pure, and empty when all is well."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from tandem.controller.compare import differences
from tandem.controller.desired import Desired, Rendered
from tandem.controller.observed import Observed
from tandem.controller.takeover import Takeover
from tandem.kube.cache import Entry, Owner, Ref
from tandem.kube.resources import CHILD_KINDS, MODEL_DEPLOYMENT, OPTIONAL_KINDS, SERVICE, WORKLOAD_KINDS

PRUNED_KINDS = frozenset(resource.kind for resource in (*CHILD_KINDS, *OPTIONAL_KINDS))


class Seen(NamedTuple):
    """That an object at this version was found to be as `digest` (and, of a workload, `replicas`) wants it."""

    uid: str
    version: int
    digest: str
    replicas: int | None


@dataclass(frozen=True, slots=True)
class Apply:
    """Write an object: create it (`uid` None) or bring the one with `uid` back to what it should be.

    `why` names the fields that differ; it is empty when only the wish has changed.
    """

    ref: Ref
    digest: str
    body: Mapping[str, Any]
    uid: str | None
    why: tuple[str, ...] = ()

    def seen_as(self, entry: Entry) -> Seen:
        """That `entry` is as this write wants it."""
        replicas = self.body["spec"]["replicas"] if self.ref.kind in WORKLOAD_KINDS else None
        return Seen(entry.uid, entry.version, self.digest, replicas)


@dataclass(frozen=True, slots=True)
class Scale:
    """Set the replicas of a workload of an older revision."""

    ref: Ref
    uid: str
    replicas: int


@dataclass(frozen=True, slots=True)
class Delete:
    """Remove an object of ours that is no longer wanted."""

    ref: Ref
    uid: str


@dataclass(frozen=True, slots=True)
class NotOurs:
    """An object that has a name of ours and is not ours; it is not touched."""

    ref: Ref
    owner: Owner | None


@dataclass(frozen=True, slots=True)
class Plan:
    """Writes to make. `not_ours` stand in the way; `waiting` are on their way out and must be gone first. `confirmed`
    are the versions of objects that are as they should be, so that they need not be compared again. `leftovers`: there
    is something of ours that is no longer wanted."""

    applies: tuple[Apply, ...] = ()
    scales: tuple[Scale, ...] = ()
    deletes: tuple[Delete, ...] = ()
    not_ours: tuple[NotOurs, ...] = ()
    waiting: tuple[Ref, ...] = ()
    confirmed: Mapping[Ref, Seen] = field(default_factory=dict)
    leftovers: bool = False

    @property
    def leads_on(self) -> bool:
        """Whether more may be due as soon as this is done, without anything else happening."""
        return not self.is_empty and self.leftovers

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to write."""
        return not (self.applies or self.scales or self.deletes)


@dataclass(frozen=True, slots=True)
class Tolerated:
    """Differences that the API server insists on: it was asked for `digest` and answered otherwise at `paths`."""

    digest: str
    paths: frozenset[str]


class Written(Protocol):
    """What is remembered of earlier writes; see `ledger.Ledger`."""

    applied: dict[tuple[str, str], str]
    tolerated: dict[Ref, Tolerated]
    confirmed: dict[Ref, Seen]
    workers: dict[Ref, Desired]


def make_plan(rendered: Rendered, observed: Observed, takeover: Takeover, ledger: Written) -> Plan:
    """What to write to get from `observed` to `rendered`, with the replicas of `takeover`."""
    applies: list[Apply] = []
    not_ours: list[NotOurs] = []
    waiting: list[Ref] = []
    confirmed: dict[Ref, Seen] = {}
    for wanted in rendered.objects:
        entry = observed.owned.get(wanted.ref) or observed.others.get(wanted.ref)
        if entry is None:
            applies.append(Apply(wanted.ref, wanted.digest, _body(wanted, takeover), None))
        elif entry.deleting or (wanted.ref in observed.others and was_predecessors(entry, entry.deployment)):
            waiting.append(wanted.ref)
        elif wanted.ref in observed.others:
            not_ours.append(NotOurs(wanted.ref, entry.owner))
        elif not (takeover.hold_router and wanted.ref == rendered.router.ref):
            write = _write(wanted, entry, takeover, ledger, confirmed)
            if write is not None:
                applies.append(write)
    wanted_refs = {wanted.ref for wanted in rendered.objects}
    repairs = _repairs(observed, takeover, wanted_refs, ledger)
    applies += repairs
    return Plan(
        applies=tuple(applies),
        scales=_scales(observed, takeover, wanted_refs | {repair.ref for repair in repairs}),
        deletes=_deletes(observed, takeover, wanted_refs, at_rest=not (applies or not_ours or waiting)),
        not_ours=tuple(not_ours),
        waiting=tuple(waiting),
        confirmed=confirmed,
        leftovers=any(ref.kind in PRUNED_KINDS and ref not in wanted_refs for ref in observed.owned),
    )


def _body(wanted: Desired, takeover: Takeover) -> dict[str, Any]:
    body = wanted.object
    if wanted.ref.kind in WORKLOAD_KINDS and wanted.ref.name in takeover.replicas:
        body["spec"]["replicas"] = takeover.replicas[wanted.ref.name]
    return body


def _write(
    wanted: Desired, entry: Entry, takeover: Takeover, ledger: Written, confirmed: dict[Ref, Seen]
) -> Apply | None:
    replicas = takeover.replicas.get(wanted.ref.name) if wanted.ref.kind in WORKLOAD_KINDS else None
    seen = Seen(entry.uid, entry.version, wanted.digest, replicas)
    if ledger.confirmed.get(wanted.ref) == seen:
        return None
    body = _body(wanted, takeover)
    found = differences(body, entry.object)
    tolerated = ledger.tolerated.get(wanted.ref)
    if tolerated is not None and tolerated.digest == wanted.digest:
        found = tuple(path for path in found if path not in tolerated.paths)
    # A field that we no longer want can only be seen by what was written last: others may have added fields too.
    if found or ledger.applied.get((wanted.ref.kind, wanted.ref.name)) != wanted.digest:
        return Apply(wanted.ref, wanted.digest, body, entry.uid, found)
    confirmed[wanted.ref] = seen
    return None


def _repairs(observed: Observed, takeover: Takeover, wanted: Collection[Ref], ledger: Written) -> list[Apply]:
    """Workloads of older revisions that somebody has changed while they still serve.

    What they were made from is remembered by this process only; after a restart they stay as they are found.
    """
    found = []
    for workload in observed.workers:
        ref = workload.entry.ref
        known = ledger.workers.get(ref)
        if known is None or ref in wanted:
            continue
        body = known.object
        body["spec"]["replicas"] = workload.replicas
        changed = differences(body, workload.document)
        tolerated = ledger.tolerated.get(ref)
        if tolerated is not None and tolerated.digest == known.digest:
            changed = tuple(path for path in changed if path not in tolerated.paths)
        if changed:
            body["spec"]["replicas"] = takeover.replicas.get(workload.name, 0)
            found.append(Apply(ref, known.digest, body, workload.entry.uid, changed))
    return found


def _scales(observed: Observed, takeover: Takeover, wanted: Collection[Ref]) -> tuple[Scale, ...]:
    return tuple(
        Scale(workload.entry.ref, workload.entry.uid, takeover.replicas[workload.name])
        for workload in observed.workers
        if workload.entry.ref not in wanted and takeover.replicas.get(workload.name, 0) != workload.replicas
    )


def _deletes(observed: Observed, takeover: Takeover, wanted: Collection[Ref], *, at_rest: bool) -> tuple[Delete, ...]:
    """What is ours and no longer wanted, each when nothing that still serves can need it."""
    settled = at_rest and takeover.done and all(workload.is_complete for workload in observed.workloads)
    old = [workload for workload in observed.workers if workload.entry.ref not in wanted]
    # A revision's headless Service goes when its workers are gone.
    serves = {Ref(SERVICE.kind, workload.entry.ref.namespace, workload.service): workload.name for workload in old}
    served = serves | {workload.entry.ref: workload.name for workload in old}
    chosen = []
    for ref, entry in observed.owned.items():
        if ref in wanted or entry.deleting or ref.kind not in PRUNED_KINDS:
            continue
        if ref in served:
            due = served[ref] in takeover.drained
        else:
            due = settled or (ref.kind == SERVICE.kind and takeover.done)
        if due:
            chosen.append(Delete(ref, entry.uid))
    return tuple(chosen)


def was_predecessors(entry: Entry, deployment: str) -> bool:
    """Whether what stands in the way of `deployment` belongs to a deleted ModelDeployment that had its name, and so is
    removed by the garbage collector. What belongs to a ModelDeployment of another name stays."""
    owner = entry.owner
    return owner is not None and owner.kind == MODEL_DEPLOYMENT.kind and owner.name == deployment
