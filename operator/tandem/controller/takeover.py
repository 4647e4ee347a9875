"""Which revisions are there, and the next step from the old ones to the one that the spec asks for."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from tandem.controller.hints import Hint
from tandem.controller.observed import Observed, Workload
from tandem.controller.rollout import Pool, Switch, next_step
from tandem.manifests import names
from tandem.manifests.workers import pod_containers

Document = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Takeover:
    """The replicas that each workload should have now, by its name.

    `drained` are old workloads that have nothing left. `hold_router`: the router must stay as it is for now. `done`:
    nothing of older revisions is left.
    """

    replicas: Mapping[str, int] = field(default_factory=dict)
    drained: frozenset[str] = frozenset()
    hold_router: bool = False
    done: bool = True


def plan_takeover(
    *,
    declared: Mapping[str, int],
    workers: Mapping[str, str],
    router: Document | None,
    observed: Observed,
    max_surge: int,
    hints: Mapping[str, Hint],
    now: datetime,
) -> Takeover:
    """`declared` and `workers` are number and workload name per role; `router` is the wanted router Deployment."""
    wanted = set(workers.values())
    current = {role: workload for role, name in workers.items() if (workload := observed.workload(name)) is not None}
    old = _sides([workload for workload in observed.workers if workload.name not in wanted])
    step = next_step(
        declared=declared,
        current=_pools(current, hints, now),
        old=[_pools(side, hints, now) for side in old],
        max_surge=max_surge,
        switch=_switch(old, current, set(declared), router, observed.router),
    )
    replicas = {workers[role]: count for role, count in step.current.items()}
    drained: set[str] = set()
    for side, target in zip(old, step.old, strict=True):
        for role, workload in side.items():
            replicas[workload.name] = target[role]
            if target[role] == 0 and workload.present == 0 and workload.replicas == 0 and workload.is_seen:
                drained.add(workload.name)
    return Takeover(replicas, frozenset(drained), hold_router=not step.router_may_switch, done=not old)


def _sides(workloads: Sequence[Workload]) -> list[dict[str, Workload]]:
    """Old workloads by revision and mode, oldest first; prefill and decode of a revision belong together."""
    sides: dict[tuple[str, bool], dict[str, Workload]] = {}
    for workload in workloads:
        sides.setdefault((workload.revision, workload.role == "agg"), {})[workload.role] = workload
    return list(sides.values())


def _pools(side: Mapping[str, Workload], hints: Mapping[str, Hint], now: datetime) -> dict[str, Pool]:
    return {role: workload.pool(hints, now) for role, workload in side.items()}


def _switch(
    old: Sequence[Mapping[str, Workload]],
    current: Mapping[str, Workload],
    roles: set[str],
    wanted: Document | None,
    router: Workload | None,
) -> Switch:
    """Whether the router has to change its protocol between the old side and the new one, and has done so."""
    if not old or wanted is None or router is None:
        return Switch.NOT_NEEDED
    if _protocol(wanted) != _protocol(router.document):
        return Switch.BEFORE
    programs = {_program(workload.document) for workload in current.values()}
    for side in old:
        speaks_otherwise = programs and {_program(workload.document) for workload in side.values()} != programs
        if set(side) - roles or speaks_otherwise:
            return Switch.AFTER if router.is_complete else Switch.BEFORE
    return Switch.NOT_NEEDED


def _protocol(router: Document) -> tuple[str, ...]:
    """Mode and backend that a router Deployment is started for."""
    given = dict(itertools.pairwise(_container(router, names.ROUTER_CONTAINER).get("args") or []))
    return tuple(str(given.get(option, "")) for option in ("--mode", "--backend"))


def _program(workers: Document) -> tuple[str, ...]:
    """The program that a workload's workers run: it stands for the backend."""
    return tuple(_container(workers, names.WORKER_CONTAINER).get("command") or ())


def _container(workload: Document, name: str) -> Document:
    return next((container for container in pod_containers(workload) if container["name"] == name), {})
