"""The status of a ModelDeployment, worked out from what was asked for and what is there: pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from tandem.api.problems import Problem
from tandem.controller.conditions import Condition, as_status, false, true
from tandem.controller.contest import Contest
from tandem.controller.desired import Rendered
from tandem.controller.facts import Pin
from tandem.controller.fits import Judged
from tandem.controller.handoff import REFUSED, hand_off
from tandem.controller.hints import Hint
from tandem.controller.loading import Loading, Told, behind
from tandem.controller.observed import Observed, Workload
from tandem.controller.rootcause import Cause, first_cause, settled
from tandem.manifests import names

GENERATING_ROLES = ("decode", "agg")
ROLE_ORDER = ("prefill", "decode", "agg")


@dataclass(frozen=True, slots=True)
class RoleView:
    """Workers of a role: declared, made from the present spec, ready (of whatever revision), and what is wrong."""

    role: str
    desired: int
    updated: int
    ready: int
    is_complete: bool
    cause: Cause | None
    loading: Loading | None


@dataclass(frozen=True, slots=True)
class Situation:
    """All that the status is worked out from.

    `declared` are the workers per role; `rendered` is None when the spec was refused for `problems`. `hindrance` says
    why objects could not be written, `contests` which of them somebody else keeps changing. `applied` are the digests
    of the objects as written by now, by kind and name. `told` is what its workers tell, `hands_off` whether they may
    tell of refused KV. `judged` says whether it fits, `pin` with what facts it was rendered; `waits`: for facts, before
    workers are made.
    """

    name: str
    namespace: str
    generation: int
    declared: Mapping[str, int]
    rendered: Rendered | None
    problems: Sequence[Problem]
    observed: Observed
    hindrance: Condition | None
    contests: Sequence[Contest]
    applied: Mapping[tuple[str, str], str]
    hints: Mapping[str, Hint]
    told: Told
    taking_over: bool
    cluster_domain: str
    hands_off: bool = False
    judged: Judged | None = None
    pin: Pin | None = None
    waits: bool = False


def next_status(situation: Situation, previous: Mapping[str, Any], *, now: datetime) -> dict[str, Any]:
    """The status to show; equal to `previous` when nothing worth telling has changed."""
    roles = role_views(situation, previous, now)
    router = situation.observed.router
    router_cause = first_cause(*_evidence([router] if router else []), hints=situation.hints, now=now)
    found = next((view.cause for view in roles if view.cause), router_cause)
    cause = settled(cause_from(previous.get("rootCause")), found)
    handed_off = hand_off(situation.told.refusals, previous.get("conditions") or ()) if situation.hands_off else None
    conditions = _conditions(situation, roles, router_cause, cause, handed_off)
    generating = next((view for view in roles if view.role in GENERATING_ROLES), None)
    status: dict[str, Any] = {
        "observedGeneration": situation.generation,
        "phase": _phase(situation, conditions, cause),
        "endpoint": f"http://{situation.name}.{situation.namespace}.svc.{situation.cluster_domain}:{names.HTTP_PORT}",
        "revision": situation.rendered.revision if situation.rendered else previous.get("revision"),
        "conditions": as_status(conditions, previous.get("conditions") or (), generation=situation.generation, now=now),
        "roles": {view.role: _role_status(view) for view in roles},
        "rootCause": _cause_status(cause),
        "parameters": situation.rendered.parameter_statuses if situation.rendered else previous.get("parameters"),
        "blueprint": situation.pin.as_status() if situation.pin and not situation.waits else previous.get("blueprint"),
        "inventory": _inventory(situation, previous),
    }
    if generating is not None:
        status["replicas"] = generating.ready
        status["selector"] = names.selector_text(_counted(situation, generating.role))
    return {key: value for key, value in status.items() if value is not None}


def role_views(situation: Situation, previous: Mapping[str, Any], now: datetime) -> list[RoleView]:
    """The roles in start order; `previous` is the status as it was."""
    views = []
    for role in ROLE_ORDER:
        if role not in situation.declared:
            continue
        mine = [workload for workload in situation.observed.workers if workload.role == role]
        name = situation.rendered.workers[role] if situation.rendered else None
        current = [workload for workload in mine if workload.name == name]
        older = [workload for workload in mine if workload.name != name]
        declared = situation.declared[role]
        evidence = _evidence([*current, *reversed(older)])
        views.append(
            RoleView(
                role=role,
                desired=declared,
                updated=sum(workload.updated for workload in current),
                ready=sum(workload.ready for workload in mine),
                is_complete=_is_complete(current, older, declared) if situation.rendered else _runs_on(mine),
                cause=first_cause(*evidence, hints=situation.hints, now=now)
                or _cause_of_replaced_pods(situation, previous, current),
                loading=behind(evidence[1], situation.told.loading),
            )
        )
    return views


def _cause_of_replaced_pods(
    situation: Situation, previous: Mapping[str, Any], current: Sequence[Workload]
) -> Cause | None:
    """Why a container of a worker of several pods ended. All of them are replaced then, and with them goes what they
    told: it stands until the workers are complete, or the spec is another one."""
    cause = cause_from(previous.get("rootCause"))
    if cause is None or cause.exit_code is None or previous.get("observedGeneration") != situation.generation:
        return None
    return next(
        (
            cause
            for workload in current
            if workload.spans_nodes and not workload.is_complete and cause.pod.startswith(f"{workload.name}-")
        ),
        None,
    )


def _counted(situation: Situation, role: str) -> dict[str, str]:
    """Selects one pod of each worker of a role: autoscalers divide by their number."""
    selector = names.role_selector(situation.name, role)
    spans = any(workload.spans_nodes for workload in situation.observed.workers if workload.role == role)
    return {**selector, **names.LEADERS} if spans else selector


def _is_complete(current: Sequence[Workload], older: Sequence[Workload], declared: int) -> bool:
    return (
        bool(current)
        and not any(workload.present for workload in older)
        and all(workload.is_complete and workload.replicas == declared for workload in current)
    )


def _runs_on(workloads: Sequence[Workload]) -> bool:
    """Whether what is kept while the spec cannot be followed is complete."""
    return bool(workloads) and all(workload.is_complete for workload in workloads)


def cause_from(document: Mapping[str, Any] | None) -> Cause | None:
    """The root cause as it stands in a status."""
    if not document:
        return None
    return Cause(
        reason=document["reason"],
        message=document.get("message", ""),
        pod=document.get("pod", ""),
        container=document.get("container", ""),
        exit_code=document.get("exitCode"),
    )


def _evidence(workloads: Sequence[Workload]) -> tuple[list[Mapping[str, Any]], list[Mapping[str, Any]]]:
    return [workload.document for workload in workloads], [pod for workload in workloads for pod in workload.pods]


def _conditions(
    situation: Situation,
    roles: Sequence[RoleView],
    router_cause: Cause | None,
    cause: Cause | None,
    handed_off: Condition | None,
) -> list[Condition]:
    parts = [_valid(situation), *_fits(situation), *_rendered(situation), *_model_ready(situation, roles, cause)]
    parts += [_role_ready(view) for view in roles]
    parts += _router_ready(situation.observed.router, router_cause)
    hindering = [part for part in parts if _hinders(part, situation)]
    counted = [part for part in parts if part.type != "Fits"]
    summary = [
        _ready(counted, cause, situation),
        _progressing(counted, hindering, cause, situation),
        _degraded(hindering, cause, situation.contests, handed_off),
    ]
    wrong = cause is not None or bool(hindering)
    if wrong and (serving := still_serving(situation.observed)):
        summary = [replace(part, message=f"{part.message}; {serving}") for part in summary]
    ready, *rest = summary
    return [ready, *parts, *([handed_off] if handed_off else []), *rest]


def still_serving(observed: Observed) -> str:
    """Which revisions answer requests although something is wrong, with their ready workers; empty when none does."""
    if observed.router is None or not observed.router.ready:
        return ""
    sides: dict[str, list[Workload]] = {}
    for workload in observed.workers:
        if workload.present or workload.ready:
            sides.setdefault(workload.revision, []).append(workload)
    told = []
    for revision, side in sides.items():
        if all(workload.ready for workload in side) and any(workload.role in GENERATING_ROLES for workload in side):
            side.sort(key=lambda workload: ROLE_ORDER.index(workload.role))
            counts = ", ".join(f"{workload.role} {workload.ready} of {workload.replicas} ready" for workload in side)
            told.append(f"revision {revision} still serves ({counts})")
    return "; ".join(told)


def _valid(situation: Situation) -> Condition:
    if not situation.problems:
        warnings = situation.rendered.warnings if situation.rendered else ()
        return true("Valid", "Accepted", " ".join(warnings))
    return false("Valid", "InvalidSpec", "\n".join(str(problem) for problem in situation.problems))


def _fits(situation: Situation) -> list[Condition]:
    return [situation.judged.condition] if situation.judged else []


def _blocked(situation: Situation) -> Condition | None:
    """Why a valid spec is not rolled out."""
    judged = situation.judged
    return judged.condition if judged and situation.rendered is None else None


def _hinders(part: Condition, situation: Situation) -> bool:
    """Whether it keeps the spec from being followed."""
    return part is _blocked(situation) or (part.type in ("Valid", "Rendered") and not part.holds)


def _rendered(situation: Situation) -> list[Condition]:
    if situation.waits:
        return []
    if situation.hindrance is not None:
        return [situation.hindrance]
    return [true("Rendered", "Applied")] if situation.rendered else []


def _model_ready(situation: Situation, roles: Sequence[RoleView], cause: Cause | None) -> list[Condition]:
    """Whether a worker of the present spec has loaded the model; of a refused spec: of what runs on."""
    if cause is not None and cause.concerns_model:
        return [false("ModelReady", cause.reason, cause.message)]
    wanted = [view for view in roles if view.desired]
    if not wanted:
        return []
    if all(view.ready and (view.updated or situation.rendered is None) for view in wanted):
        return [true("ModelReady", "Loaded")]
    return [Condition("ModelReady", "Unknown", "NotLoadedYet", "no worker of each role has loaded the model yet")]


def _role_ready(view: RoleView) -> Condition:
    kind = f"{view.role.capitalize()}Ready"
    counts = f"{view.ready} of {view.desired} workers ready"
    if view.cause is not None:
        return false(kind, view.cause.reason, f"{counts}: {_located(view.cause)}")
    if view.is_complete:
        return true(kind, "AllReady" if view.desired else "ScaledToZero", counts)
    loading = f", loading {view.loading}" if view.loading else ""
    if view.ready >= view.desired > 0:
        return false(kind, "RollingOut", f"{counts}, {view.updated} of them updated{loading}")
    return false(kind, "WorkersStarting", counts + loading)


def _router_ready(router: Workload | None, cause: Cause | None) -> list[Condition]:
    if router is None:
        return [false("RouterReady", "RouterMissing", "the router has not been created yet")]
    if cause is not None:
        return [false("RouterReady", cause.reason, _located(cause))]
    if router.is_complete:
        return [true("RouterReady", "Available")]
    if router.ready:
        return [false("RouterReady", "RollingOut", f"{router.updated} of {router.replicas} routers updated")]
    return [false("RouterReady", "RouterStarting", f"{router.ready} of {router.replicas} routers ready")]


def _ready(parts: Sequence[Condition], cause: Cause | None, situation: Situation) -> Condition:
    failing = [part for part in parts if not part.holds]
    blocked = _blocked(situation)
    if blocked is not None and not situation.observed.workers:
        return false("Ready", blocked.reason, blocked.message)
    if not failing:
        found = "everything declared is ready"
        kept = "everything that runs is ready; the spec is not rolled out, see Fits"
        return true("Ready", "Serving", kept if blocked else found)
    first = failing[0]
    if first.type in ("Valid", "Rendered"):
        return false("Ready", first.reason, first.message)
    if cause is not None:
        return false("Ready", cause.reason, _located(cause))
    # Loading is no cause of its own: which role waits says more.
    telling = next((part for part in failing if part.type != "ModelReady"), first)
    return false("Ready", telling.reason, f"{telling.type}: {telling.message}")


def _progressing(
    parts: Sequence[Condition], hindering: Sequence[Condition], cause: Cause | None, situation: Situation
) -> Condition:
    if hindering:
        return false("Progressing", hindering[0].reason, hindering[0].message)
    if cause is not None:
        return false("Progressing", cause.reason, "waiting until the cause is removed")
    if situation.taking_over:
        return true("Progressing", "RollingOut", "a new revision takes over")
    moving = next((part for part in parts if not part.holds and part.type != "ModelReady"), None)
    if moving is not None:
        return true("Progressing", moving.reason, moving.message)
    return false("Progressing", "Settled")


def _degraded(
    hindering: Sequence[Condition], cause: Cause | None, contests: Sequence[Contest], handed_off: Condition | None
) -> Condition:
    if hindering:
        return true("Degraded", hindering[0].reason, hindering[0].message)
    told = [str(contest) for contest in contests]
    if handed_off is not None and not handed_off.holds:
        told.append(handed_off.message)
    if cause is not None:
        return true("Degraded", cause.reason, "\n".join([_located(cause), *told]))
    if told:
        return true("Degraded", "ObjectContested" if contests else REFUSED, "\n".join(told))
    return false("Degraded", "AsExpected")


def _phase(situation: Situation, conditions: Sequence[Condition], cause: Cause | None) -> str:
    """One word for people."""
    by_type = {condition.type: condition for condition in conditions}
    if not by_type["Valid"].holds:
        return "Invalid"
    if _blocked(situation) is not None:
        return "Blocked"
    if by_type["Ready"].holds:
        return "Ready" if any(situation.declared.values()) else "Stopped"
    if "Rendered" in by_type and not by_type["Rendered"].holds:
        return "Blocked"
    if cause is not None:
        return "Failing"
    return "RollingOut" if situation.taking_over else "Starting"


def _role_status(view: RoleView) -> dict[str, Any]:
    counts = {"desired": view.desired, "updated": view.updated, "ready": view.ready}
    return counts if view.loading is None else {**counts, "loading": str(view.loading)}


def _located(cause: Cause) -> str:
    where = f"pod {cause.pod}" if cause.pod else ""
    if cause.container:
        where += f", container {cause.container}"
    if cause.exit_code is not None:
        where += f" (exit code {cause.exit_code})"
    return f"{where}: {cause.message}" if where else cause.message


def _cause_status(cause: Cause | None) -> dict[str, Any] | None:
    if cause is None:
        return None
    shown = {
        "pod": cause.pod or None,
        "container": cause.container or None,
        "reason": cause.reason,
        "exitCode": cause.exit_code,
        "message": cause.message,
    }
    return {key: value for key, value in shown.items() if value is not None}


def _inventory(situation: Situation, previous: Mapping[str, Any]) -> list[dict[str, str]] | None:
    if situation.rendered is None:
        return previous.get("inventory")
    return [{"kind": kind, "name": name, "hash": digest} for (kind, name), digest in sorted(situation.applied.items())]
