"""What only Events tell: why a probe fails, why a volume is not mounted, why a group's pods are not made.

Read for what is stuck, ever more rarely.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from tandem.kube.cache import Ref
from tandem.kube.client import Client
from tandem.kube.clock import Clock
from tandem.kube.errors import ApiError
from tandem.kube.resources import EVENT

logger = logging.getLogger(__name__)

Document = Mapping[str, Any]

STUCK_SECONDS = 4.0
LONGEST_WAIT = 60.0

TELLING = (
    "FailedMount",
    "FailedAttachVolume",
    "FailedMapVolume",
    "FailedCreatePodSandBox",
    "FailedToRetrieveImagePullSecret",
    "Unhealthy",
    "FailedCreate",
)
"""Reasons of the Events that explain what the status of an object does not."""


class Subject(NamedTuple):
    """What is stuck, and leaves open why. `selector` picks its Events; its hint is known by `uid`."""

    uid: str
    namespace: str
    name: str
    selector: str


@dataclass(frozen=True, slots=True)
class Hint:
    """The latest telling Event of a subject; `probe` is the kind of a failed probe: Readiness, Liveness or Startup."""

    reason: str
    message: str
    probe: str = ""


def hint_from(events: Iterable[Document]) -> Hint | None:
    """The latest telling one of core/v1 Events."""
    telling = [event for event in events if event.get("reason") in TELLING]
    if not telling:
        return None
    last = max(telling, key=_seen)
    message = str(last.get("message", "")).strip()
    kind = message.partition(" ")[0]
    probe = kind if last["reason"] == "Unhealthy" and kind in ("Readiness", "Liveness", "Startup") else ""
    return Hint(last["reason"], message, probe)


def stuck_pods(pods: Iterable[Document]) -> Iterator[Subject]:
    """The stuck ones among `pods`."""
    for pod in pods:
        if is_stuck(pod):
            metadata = pod["metadata"]
            uid = metadata["uid"]
            yield Subject(uid, metadata["namespace"], f"pod {metadata['name']}", f"involvedObject.uid={uid}")


class HintReader:
    """Reads the Events of what is stuck: first after a few seconds, then ever more rarely while it stays so."""

    def __init__(self, client: Client, clock: Clock) -> None:
        self._client = client
        self._clock = clock
        self._watched: dict[Ref, dict[str, _Watched]] = {}

    def hints(self, owner: Ref) -> Mapping[str, Hint]:
        """What is known by now of what is stuck of `owner`, by uid."""
        watched = self._watched.get(owner, {})
        return {uid: subject.hint for uid, subject in watched.items() if subject.hint is not None}

    async def look(self, owner: Ref, subjects: Iterable[Subject]) -> float | None:
        """Reads what is due about `subjects`, all that is stuck of `owner`; returns the seconds until something is due
        again."""
        now, known = self._clock.monotonic(), self._watched.get(owner, {})
        stuck: dict[str, _Watched] = {}
        for subject in subjects:
            watched = stuck.setdefault(subject.uid, known.get(subject.uid) or _Watched(due=now + STUCK_SECONDS))
            if now >= watched.due:
                watched.hint = await self._read(subject) or watched.hint
                watched.looks += 1
                watched.due = now + min(STUCK_SECONDS * 2.0**watched.looks, LONGEST_WAIT)
        if stuck:
            self._watched[owner] = stuck
        else:
            self.forget(owner)
        return min((watched.due - now for watched in stuck.values()), default=None)

    def forget(self, owner: Ref) -> None:
        """Drops what is remembered of an owner."""
        self._watched.pop(owner, None)

    async def _read(self, subject: Subject) -> Hint | None:
        try:
            listing = await self._client.list(EVENT, subject.namespace, field_selector=subject.selector)
        except ApiError as error:
            logger.warning("the Events of %s could not be read: %s", subject.name, error)
            return None
        return hint_from(listing.items)


@dataclass
class _Watched:
    due: float
    looks: int = 0
    hint: Hint | None = None


def is_stuck(pod: Document) -> bool:
    """Whether a pod's status leaves open what it waits for: it creates containers, or runs without being ready."""
    if pod["metadata"].get("deletionTimestamp"):
        return False
    containers = pod["status"].get("containerStatuses") or ()
    scheduled = any(
        condition["type"] == "PodScheduled" and condition["status"] == "True"
        for condition in pod["status"].get("conditions") or ()
    )
    if scheduled and not containers:
        return bool(pod["status"].get("phase") == "Pending")
    return any(not container.get("ready") and _is_silent(container) for container in containers)


def _is_silent(container: Document) -> bool:
    state = container.get("state") or {}
    waiting = state.get("waiting") or {}
    pulled = waiting.get("reason") in ("ErrImagePull", "ImagePullBackOff")
    killed = (container.get("lastState") or {}).get("terminated", {}).get("exitCode") in (137, 143)
    # A server that has not passed its startup probe is loading, which is no riddle.
    unready = "running" in state and container.get("started", True)
    return unready or waiting.get("reason") == "ContainerCreating" or pulled or killed


def _seen(event: Document) -> datetime:
    series = event.get("series") or {}
    moment = (
        series.get("lastObservedTime")
        or event.get("lastTimestamp")
        or event.get("eventTime")
        or event["metadata"]["creationTimestamp"]
    )
    return datetime.fromisoformat(moment)
