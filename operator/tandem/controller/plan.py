"""The difference between what should be and what is, as writes: pure, and empty when all is well."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from tandem.controller.compare import differences
from tandem.controller.desired import Desired
from tandem.controller.observed import Observed
from tandem.controller.takeover import Takeover
from tandem.kube.cache import Entry, Owner, Ref
from tandem.kube.resources import CHILD_KINDS, DEPLOYMENT, MODEL_DEPLOYMENT, SERVICE

PRUNED_KINDS = frozenset(resource.kind for resource in CHILD_KINDS)


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


@dataclass(frozen=True, slots=True)
class Scale:
    """Set the replicas of a Deployment of an older revision."""

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
    """Writes to make. `not_ours` stand in the way; `waiting` are on their way out and must be gone first."""

    applies: tuple[Apply, ...] = ()
    scales: tuple[Scale, ...] = ()
    deletes: tuple[Delete, ...] = ()
    not_ours: tuple[NotOurs, ...] = ()
    waiting: tuple[Ref, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to write."""
        return not (self.applies or self.scales or self.deletes)


@dataclass(frozen=True, slots=True)
class Tolerated:
    """Differences that the API server insists on: it was asked for `digest` and answered otherwise at `paths`."""

    digest: str
    paths: frozenset[str]


def make_plan(
    desired: Collection[Desired],
    observed: Observed,
    takeover: Takeover,
    *,
    router: str,
    applied: Mapping[tuple[str, str], str],
    tolerated: Mapping[Ref, Tolerated],
) -> Plan:
    """What to write. `applied` are the digests that were last written, from the status' inventory, by kind and name."""
    applies: list[Apply] = []
    not_ours: list[NotOurs] = []
    waiting: list[Ref] = []
    for wanted in desired:
        entry = observed.owned.get(wanted.ref) or observed.others.get(wanted.ref)
        if entry is not None and (entry.deleting or (wanted.ref in observed.others and was_predecessors(entry))):
            waiting.append(wanted.ref)
        elif entry is not None and wanted.ref in observed.others:
            not_ours.append(NotOurs(wanted.ref, entry.owner))
        elif entry is None or not (takeover.hold_router and wanted.ref.name == router):
            last = applied.get((wanted.ref.kind, wanted.ref.name))
            write = _write(wanted, entry, takeover, last, tolerated.get(wanted.ref))
            if write is not None:
                applies.append(write)
    wanted_refs = {wanted.ref for wanted in desired}
    return Plan(
        tuple(applies),
        _scales(observed, takeover, wanted_refs),
        _deletes(observed, takeover, wanted_refs),
        tuple(not_ours),
        tuple(waiting),
    )


def _write(
    wanted: Desired, entry: Entry | None, takeover: Takeover, applied: str | None, tolerated: Tolerated | None
) -> Apply | None:
    body = wanted.object
    if wanted.ref.kind == DEPLOYMENT.kind and wanted.ref.name in takeover.replicas:
        body["spec"]["replicas"] = takeover.replicas[wanted.ref.name]
    if entry is None:
        return Apply(wanted.ref, wanted.digest, body, None)
    found = differences(body, entry.object)
    if tolerated is not None and tolerated.digest == wanted.digest:
        found = tuple(path for path in found if path not in tolerated.paths)
    # A field that we no longer want can only be seen by what was written last: others may have added fields too.
    if found or applied != wanted.digest:
        return Apply(wanted.ref, wanted.digest, body, entry.uid, found)
    return None


def _scales(observed: Observed, takeover: Takeover, wanted: Collection[Ref]) -> tuple[Scale, ...]:
    return tuple(
        Scale(workload.entry.ref, workload.entry.uid, takeover.replicas[workload.name])
        for workload in observed.workers
        if workload.entry.ref not in wanted and takeover.replicas.get(workload.name, 0) != workload.replicas
    )


def _deletes(observed: Observed, takeover: Takeover, wanted: Collection[Ref]) -> tuple[Delete, ...]:
    """What is ours and no longer wanted, each when nothing that still serves can need it."""
    settled = takeover.done and all(workload.is_complete for workload in observed.workloads)
    old_workers = {workload.name for workload in observed.workers if workload.entry.ref not in wanted}
    chosen = []
    for ref, entry in observed.owned.items():
        if ref in wanted or entry.deleting or ref.kind not in PRUNED_KINDS:
            continue
        # The headless Service of a revision has its Deployment's name: both go when its workers are gone.
        if ref.kind in (DEPLOYMENT.kind, SERVICE.kind) and ref.name in old_workers:
            due = ref.name in takeover.drained
        else:
            due = settled or (ref.kind == SERVICE.kind and takeover.done)
        if due:
            chosen.append(Delete(ref, entry.uid))
    return tuple(chosen)


def was_predecessors(entry: Entry) -> bool:
    """Whether it belongs to a deleted ModelDeployment whose name is used again: the garbage collector removes it."""
    owner = entry.owner
    return owner is not None and owner.kind == MODEL_DEPLOYMENT.kind and owner.name == entry.deployment
