"""Writes statuses: only when they differ, changes of little weight gathered for a moment, and never without end."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tandem.controller.conditions import find
from tandem.controller.contest import culprit
from tandem.controller.events import Recorder, Transition, transition
from tandem.controller.pace import Pace
from tandem.controller.patch import merge_patch
from tandem.kube.cache import Cache, Entry, Ref, entry_of
from tandem.kube.client import Client
from tandem.kube.clock import Clock
from tandem.kube.errors import ApiError
from tandem.kube.resources import BY_KIND

logger = logging.getLogger(__name__)

GATHER_SECONDS = 0.3
CONTESTED = "StatusContested"


@dataclass
class _Memory:
    """What became of the writes to one object, as digests: its status as we left it, and by field what was asked for
    and what the API server made of that, where the two differ; `kept` did so again when asked again."""

    uid: str
    left_as: str = ""
    unkept: dict[str, tuple[str, str]] = field(default_factory=dict)
    kept: dict[str, tuple[str, str]] = field(default_factory=dict)
    is_told: bool = False


class StatusWriter:
    """One patch of the status subresource per change, then an Event if the change is a transition.

    What somebody else keeps changing is written ever more rarely, and that is told. What the API server does not keep,
    as with a CustomResourceDefinition that is older than the operator, is not asked for again and again.
    """

    def __init__(self, client: Client, cache: Cache, clock: Clock) -> None:
        self._client = client
        self._cache = cache
        self._clock = clock
        self._recorder = Recorder(client, clock)
        self._pending: dict[Ref, float] = {}
        self._pace: Pace[Ref] = Pace()
        self._memories: dict[Ref, _Memory] = {}

    async def write(self, entry: Entry, about: Mapping[str, Any], status: Mapping[str, Any]) -> float | None:
        """Brings the status of `about` to `status`; returns seconds to call again after, if any: when it waits for
        more, or at once when somebody else has changed the object meanwhile."""
        before = about.get("status") or {}
        memory = self._memory(entry)
        patch = _without_known(merge_patch(before, status), before, status, memory)
        if not patch:
            self._pending.pop(entry.ref, None)
            return None
        now = self._clock.monotonic()
        left = self._pending.setdefault(entry.ref, now) + GATHER_SECONDS - now
        if left > 0 and not _is_urgent(before, status):
            return left
        by_others = memory.left_as not in ("", _digest(before))
        if by_others or memory.unkept:
            wait = self._pace.wait(entry.ref, entry.uid, now)
            if wait > 0:
                return wait
            is_fight = by_others and self._pace.contested(entry.ref, now) > 0
            if is_fight and not memory.is_told:
                await self._tell(entry, about)
            memory.is_told = is_fight
        del self._pending[entry.ref]
        resource = BY_KIND[entry.ref.kind]
        answer = await self._client.merge(
            resource,
            entry.ref.namespace,
            entry.ref.name,
            {"status": patch},
            uid=entry.uid,
            subresource="status",
        )
        self._cache.put(entry_of(resource, answer))
        change = transition(before, status)
        if change is not None:
            await self._recorder.record(about, change)
        self._learn(entry.ref, memory, answer, status)
        same_spec = answer["metadata"].get("generation") == about["metadata"].get("generation")
        return None if same_spec and not memory.unkept else 0.0

    def forget(self, ref: Ref) -> None:
        """Drops what is remembered of an object that is gone."""
        self._pending.pop(ref, None)
        self._memories.pop(ref, None)
        self._pace.forget(ref)

    def _memory(self, entry: Entry) -> _Memory:
        memory = self._memories.get(entry.ref)
        if memory is None or memory.uid != entry.uid:
            memory = self._memories[entry.ref] = _Memory(entry.uid)
        return memory

    def _learn(self, ref: Ref, memory: _Memory, answer: Mapping[str, Any], status: Mapping[str, Any]) -> None:
        """Compares what was asked for with what is there now. With the answer in the cache no event would tell."""
        stored = answer.get("status") or {}
        memory.left_as = _digest(stored)
        before, memory.unkept = memory.unkept, {}
        for key in _without_known(merge_patch(stored, status), stored, status, memory):
            pair = (_digest(status.get(key)), _digest(stored.get(key)))
            if before.get(key) != pair:
                # Perhaps somebody else was faster: the next try will tell.
                memory.unkept[key] = pair
                continue
            if key not in memory.kept:
                text = (
                    "%s: the API server does not keep status.%s as it is written: is the CRD older than this operator?"
                )
                logger.warning(text, ref, key)
            memory.kept[key] = pair

    async def _tell(self, entry: Entry, about: Mapping[str, Any]) -> None:
        """Says once, in the log and in an Event, that somebody else keeps writing this status, and who."""
        who = culprit(await self._writers(entry))
        message = f"{who} keeps writing the status of this resource: it is written ever more rarely from now on"
        logger.warning("%s: %s", entry.ref, message)
        await self._recorder.record(about, Transition("Warning", CONTESTED, message))

    async def _writers(self, entry: Entry) -> tuple[str, ...]:
        """The field managers that wrote the status last, by the API server's records."""
        resource, ref = BY_KIND[entry.ref.kind], entry.ref
        try:
            listing = await self._client.list(resource, ref.namespace, field_selector=f"metadata.name={ref.name}")
        except ApiError as error:
            logger.debug("who writes the status of %s could not be read: %s", ref, error)
            return ()
        managed = [field for item in listing.items for field in item["metadata"].get("managedFields") or ()]
        written = [entry for entry in managed if entry.get("subresource") == "status"]
        last = max(written, key=lambda entry: str(entry.get("time", "")), default=None)
        return (str(last.get("manager", "")),) if last else ()


def _without_known(
    patch: Mapping[str, Any], before: Mapping[str, Any], after: Mapping[str, Any], memory: _Memory
) -> dict[str, Any]:
    """`patch` without the fields of which the API server is known to make what is there already."""
    if not memory.kept:
        return dict(patch)
    return {
        key: value
        for key, value in patch.items()
        if memory.kept.get(key) != (_digest(after.get(key)), _digest(before.get(key)))
    }


def _digest(value: object) -> str:
    return hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=8).hexdigest()


def _is_urgent(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Whether somebody may be waiting for this: it is ready now, or was refused."""
    for kind in ("Ready", "Valid", "Rendered", "Accepted", "Parsed"):
        old, new = find(before.get("conditions"), kind), find(after.get("conditions"), kind)
        was = (old["status"], old["observedGeneration"]) if old else ("", 0)
        if new is None or (new["status"], new["observedGeneration"]) == was:
            continue
        if (kind in ("Ready", "Parsed")) == (new["status"] == "True"):
            return True
    return False
