"""Probes and shutdown times of workers and router.

A load that goes on is never killed. The bundled server watches its own loading and ends with a reason when nothing
moves any more, so its startup probe only has to end what is beyond telling; for other servers the probe's window is
computed from the bytes to load, or is hours when they are unknown. A pod that is going away keeps answering until every
endpoint list has dropped it, then finishes what it began.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tandem.manifests.names import HTTP_PORT_NAME

STARTUP_DEADLINE = "startup_deadline_seconds"
"""The name that a worker's time to start is shown under, beside the engine parameters."""
READINESS_PERIOD_SECONDS = 2
# Time for an EndpointSlice change to reach the routers before SIGTERM.
DRAIN_SECONDS = 5
# Between the end of the last request and SIGKILL.
SLACK_SECONDS = 10
UNKNOWN_LOAD_SECONDS = 3 * 3600
WATCHED_LOAD_SECONDS = 48 * 3600
# The slowest storage or network that is still waited for, and the least time given to any model.
_SLOWEST_BYTES_PER_SECOND = 10 * 10**6
_LEAST_LOAD_SECONDS = 1800


def startup_seconds(weight_bytes: int | None, *, watched: bool) -> int:
    """How long a worker may take until it serves; `watched`: it ends by itself when its loading stalls."""
    if watched:
        return WATCHED_LOAD_SECONDS
    if weight_bytes is None:
        return UNKNOWN_LOAD_SECONDS
    return _LEAST_LOAD_SECONDS + weight_bytes // _SLOWEST_BYTES_PER_SECOND


def probe_seconds(startup_probe: Mapping[str, Any]) -> int:
    """How long a startupProbe lets a container start."""
    period, tries = startup_probe.get("periodSeconds", 10), startup_probe.get("failureThreshold", 3)
    return int(startup_probe.get("initialDelaySeconds", 0)) + int(period) * int(tries)


def worker_probes(*, liveness_path: str, window_seconds: int) -> dict[str, Any]:
    """The three probes of a worker."""
    return {
        "startupProbe": {
            **_get("/health"),
            "periodSeconds": READINESS_PERIOD_SECONDS,
            "failureThreshold": -(-window_seconds // READINESS_PERIOD_SECONDS),
            "timeoutSeconds": 5,
        },
        "readinessProbe": {
            **_get("/health"),
            "periodSeconds": READINESS_PERIOD_SECONDS,
            "failureThreshold": 3,
            "timeoutSeconds": 5,
        },
        "livenessProbe": {**_get(liveness_path), "periodSeconds": 10, "failureThreshold": 6, "timeoutSeconds": 5},
    }


def router_probes() -> dict[str, Any]:
    """The probes of the router; neither depends on the workers."""
    return {
        "readinessProbe": {
            **_get("/readyz"),
            "periodSeconds": READINESS_PERIOD_SECONDS,
            "failureThreshold": 2,
            "timeoutSeconds": 3,
        },
        "livenessProbe": {**_get("/livez"), "periodSeconds": 10, "failureThreshold": 3, "timeoutSeconds": 5},
    }


def _get(path: str) -> dict[str, Any]:
    return {"httpGet": {"path": path, "port": HTTP_PORT_NAME}}


def drain_hook() -> dict[str, Any]:
    """Waits inside the kubelet before SIGTERM; needs no shell in the image."""
    return {"preStop": {"sleep": {"seconds": DRAIN_SECONDS}}}


def grace_seconds(request_seconds: int) -> int:
    """terminationGracePeriodSeconds for requests of at most `request_seconds`."""
    return DRAIN_SECONDS + request_seconds + SLACK_SECONDS
