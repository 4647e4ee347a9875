"""Writes statuses: only when they differ, and changes of little weight gathered for a moment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tandem.controller.conditions import find
from tandem.controller.events import Recorder, transition
from tandem.controller.patch import merge_patch
from tandem.kube.cache import Cache, Entry, Ref, entry_of
from tandem.kube.client import Client
from tandem.kube.clock import Clock
from tandem.kube.resources import BY_KIND

GATHER_SECONDS = 0.3


class StatusWriter:
    """One patch of the status subresource per change, then an Event if the change is a transition."""

    def __init__(self, client: Client, cache: Cache, clock: Clock) -> None:
        self._client = client
        self._cache = cache
        self._clock = clock
        self._recorder = Recorder(client, clock)
        self._pending: dict[Ref, float] = {}

    async def write(self, entry: Entry, about: Mapping[str, Any], status: Mapping[str, Any]) -> float | None:
        """Brings the status of `about` to `status`; returns seconds to call again after, if any: when it waits for
        more, or at once when somebody else has changed the object meanwhile."""
        before = about.get("status") or {}
        patch = merge_patch(before, status)
        if not patch:
            self._pending.pop(entry.ref, None)
            return None
        now = self._clock.monotonic()
        left = self._pending.setdefault(entry.ref, now) + GATHER_SECONDS - now
        if left > 0 and not _is_urgent(before, status):
            return left
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
        return None if _is_as_expected(answer, about, status) else 0.0

    def forget(self, ref: Ref) -> None:
        """Drops what is remembered of an object that is gone."""
        self._pending.pop(ref, None)


def _is_as_expected(answer: Mapping[str, Any], about: Mapping[str, Any], status: Mapping[str, Any]) -> bool:
    """Whether nobody else has changed the object in between: with the answer in the cache, no event would tell."""
    same_spec = answer["metadata"].get("generation") == about["metadata"].get("generation")
    return same_spec and not merge_patch(answer.get("status") or {}, status)


def _is_urgent(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Whether somebody may be waiting for this: it is ready now, or was refused."""
    for kind in ("Ready", "Valid", "Rendered", "Accepted"):
        old, new = find(before.get("conditions"), kind), find(after.get("conditions"), kind)
        was = (old["status"], old["observedGeneration"]) if old else ("", 0)
        if new is None or (new["status"], new["observedGeneration"]) == was:
            continue
        if (kind == "Ready") == (new["status"] == "True"):
            return True
    return False
