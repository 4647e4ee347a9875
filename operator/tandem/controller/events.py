"""Kubernetes Events, for people who run `kubectl describe`: one whenever readiness or its cause changes."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from tandem.controller.conditions import find
from tandem.kube.client import Client
from tandem.kube.clock import Clock, timestamp
from tandem.kube.errors import ApiError
from tandem.kube.resources import EVENT

logger = logging.getLogger(__name__)

COMPONENT = "tandem-operator"
LONGEST_MESSAGE = 1024


@dataclass(frozen=True, slots=True)
class Transition:
    """A change worth an Event."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


def transition(before: Mapping[str, Any], after: Mapping[str, Any]) -> Transition | None:
    """What has changed between two statuses: ready or not, and if something is wrong, what. Progress is no event."""
    ready, degraded = (find(after.get("conditions"), kind) for kind in ("Ready", "Degraded"))
    if degraded is None:
        return None
    was_ready, was_degraded = (find(before.get("conditions"), kind) for kind in ("Ready", "Degraded"))
    wrong = degraded["status"] == "True"
    if wrong:
        same = was_degraded and was_degraded["status"] == "True" and was_degraded["reason"] == degraded["reason"]
        return None if same else Transition("Warning", degraded["reason"], degraded["message"])
    if ready is None:
        return None
    if ready["status"] == "True":
        same = was_ready and was_ready["status"] == "True"
        return None if same else Transition("Normal", "Ready", ready["message"])
    if was_ready and was_ready["status"] == "True":
        return Transition("Normal", ready["reason"], ready["message"])
    return None


class Recorder:
    """Posts Events. One that is not taken is only logged: nothing depends on them."""

    def __init__(self, client: Client, clock: Clock) -> None:
        self._client = client
        self._clock = clock

    async def record(self, about: Mapping[str, Any], what: Transition) -> None:
        """Posts `what` about an object."""
        metadata, now = about["metadata"], timestamp(self._clock.now())
        event = {
            "apiVersion": EVENT.api_version,
            "kind": EVENT.kind,
            "metadata": {"generateName": f"{metadata['name'][:200]}.", "namespace": metadata["namespace"]},
            "involvedObject": {
                "apiVersion": about["apiVersion"],
                "kind": about["kind"],
                "name": metadata["name"],
                "namespace": metadata["namespace"],
                "uid": metadata["uid"],
            },
            "type": what.type,
            "reason": what.reason,
            "message": what.message[:LONGEST_MESSAGE],
            "source": {"component": COMPONENT},
            "reportingComponent": COMPONENT,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }
        try:
            await self._client.create(EVENT, event)
        except ApiError as error:
            logger.warning("an Event about %s %s was not posted: %s", about["kind"], metadata["name"], error)
