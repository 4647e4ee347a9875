"""What pods that read a model's files tell: how far they are, and what they found."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from tandem.api import labels
from tandem.controller.rootcause import pod_cause
from tandem.kube.cache import Cache, Entry, Ref
from tandem.kube.resources import MODEL_BLUEPRINT

_MARK = labels.BLUEPRINT.encode()
Stage = Literal["starting", "running", "stuck", "over"]


@dataclass(frozen=True, slots=True)
class Finding:
    """How far a probe is, and, once it is over, the facts (packed), or the reason why there are none."""

    stage: Stage
    facts: str = ""
    reason: str = ""
    message: str = ""


class Probes:
    """The pods of each ModelBlueprint, and who wants a model read again. Filled by the watch of pods."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self._pods: dict[Ref, set[Ref]] = {}
        self._asked: set[Ref] = set()
        self._stages: dict[Ref, Stage] = {}

    def note(self, entry: Entry) -> Ref | None:
        """Takes down a pod that came, changed or went; returns the ModelBlueprint that it is for, if any."""
        # Nearly all pods are workers', and their events are many: none of those is read for it.
        name = _owner(entry.object)[0] if _MARK in entry.body else ""
        if not name:
            return None
        ref = Ref(MODEL_BLUEPRINT.kind, entry.ref.namespace, name)
        self._pods.setdefault(ref, set()).add(entry.ref)
        return ref

    def newest(self, blueprint: Ref, mark: str) -> Mapping[str, Any] | None:
        """The last pod that reads for the ModelBlueprint and carries `mark`."""
        known = self._pods.get(blueprint, set())
        entries = {ref: entry for ref in known if (entry := self._cache.get(ref)) is not None}
        if not entries:
            self._pods.pop(blueprint, None)
        mine = [pod for entry in entries.values() if _owner(pod := entry.object)[1] == mark]
        return max(mine, key=lambda pod: str(pod["metadata"].get("creationTimestamp", "")), default=None)

    def ask(self, blueprint: Ref) -> None:
        """Somebody is about to use the model anew: it should be looked at once more."""
        self._asked.add(blueprint)

    def take_ask(self, blueprint: Ref) -> bool:
        """Whether somebody has asked since."""
        asked = blueprint in self._asked
        self._asked.discard(blueprint)
        return asked

    def stage(self, blueprint: Ref) -> Stage:
        """How far the probe of a ModelBlueprint is."""
        return self._stages.get(blueprint, "starting")

    def set_stage(self, blueprint: Ref, stage: Stage) -> None:
        """Takes down how far it is."""
        self._stages[blueprint] = stage

    def forget(self, blueprint: Ref) -> None:
        """Drops what is remembered of a ModelBlueprint that is gone."""
        self._stages.pop(blueprint, None)
        self._asked.discard(blueprint)


def _owner(pod: Mapping[str, Any]) -> tuple[str, str]:
    """Name of the ModelBlueprint that a pod reads for, and the mark of what it reads."""
    name, _, mark = str((pod["metadata"].get("annotations") or {}).get(labels.BLUEPRINT, "")).partition("/")
    return name, mark


def finding_of(pod: Mapping[str, Any], now: datetime) -> Finding:
    """What a probe's pod tells."""
    status = pod.get("status") or {}
    for container in status.get("containerStatuses") or ():
        ended = (container.get("state") or {}).get("terminated")
        if ended:
            return _ended(ended)
    if status.get("phase") in ("Failed", "Succeeded"):
        reason = status.get("reason") or "Failed"
        return Finding("over", reason="ProbeFailed", message=f"the pod that read the model ended: {reason}")
    cause = pod_cause(pod, now=now)
    if cause is not None:
        return Finding("stuck", reason=cause.reason, message=cause.message)
    conditions = status.get("conditions") or ()
    scheduled = any(each["type"] == "PodScheduled" and each["status"] == "True" for each in conditions)
    return Finding("running" if scheduled else "starting", reason="Probing", message="a pod reads the model's files")


def _ended(ended: Mapping[str, Any]) -> Finding:
    message, code = str(ended.get("message") or ""), ended.get("exitCode")
    try:
        told = json.loads(message)
    except (ValueError, RecursionError):
        told = None
    if isinstance(told, dict):
        if code == 0 and isinstance(told.get("facts"), str):
            return Finding("over", facts=told["facts"])
        if isinstance(told.get("refused"), str):
            return Finding("over", reason="Refused", message=told["refused"])
    reason = str(ended.get("reason") or "Error")
    shown = f": {message.strip()[-500:]}" if message.strip() else ""
    text = f"the pod that read the model ended ({reason}, exit code {code}){shown}"
    return Finding("over", reason="ProbeFailed", message=text)
