"""From EndpointSlices, as the API server gives them, to a Fleet. Pure.

The Service of a role and revision hands its labels down to its slices, so a slice tells the role and revision of the
workers in it. A pod may be in several slices (one per address family, or two while the controller moves it): it is one
worker.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from tandem.api.labels import DEPLOYMENT, REVISION, ROLE
from tandem.gateway.fleet import Endpoint, Fleet, Role

PORT_NAME = "http"

Slice = Mapping[str, Any]


class SliceCache:
    """The slices known now, by name, and what is odd about them (`problems`, each a line)."""

    def __init__(self) -> None:
        self._slices: dict[str, Slice] = {}

    def replace(self, slices: Iterable[Slice]) -> None:
        """All slices there are, as a list gave them."""
        self._slices = {item["metadata"]["name"]: item for item in slices}

    def put(self, item: Slice) -> None:
        """A slice that was added or changed."""
        self._slices[item["metadata"]["name"]] = item

    def drop(self, item: Slice) -> None:
        """A slice that was deleted."""
        self._slices.pop(item["metadata"]["name"], None)

    def fleet(self) -> Fleet:
        """The workers in all slices."""
        return fleet_of(self._slices.values())

    def problems(self) -> frozenset[str]:
        """Why some slices hold no worker that can be used."""
        return frozenset(problem for item in self._slices.values() if (problem := problem_of(item)))


def selector(deployment: str) -> str:
    """The label selector for the slices of a deployment's workers (its router's own Service has no role)."""
    return f"{DEPLOYMENT}={deployment},{ROLE}"


def fleet_of(slices: Iterable[Slice]) -> Fleet:
    """The workers in `slices`, each once.

    A pod that ends in one slice ends: it does not come back. Else it is ready if one says so. IPv4 is used before IPv6.
    """
    found: dict[tuple[str, Role], tuple[Endpoint, bool]] = {}
    for item in sorted(slices, key=_family):
        if problem_of(item):
            continue
        for endpoint, terminating in _workers(item):
            key = (endpoint.name, endpoint.role)
            earlier, was_terminating = found.get(key, (endpoint, False))
            ends = terminating or was_terminating
            ready = (earlier.ready or endpoint.ready) and not ends
            found[key] = (replace(earlier, ready=ready), ends)
    return Fleet.of(endpoint for endpoint, _ in found.values())


def problem_of(item: Slice) -> str | None:
    """Why this slice holds no worker that can be used, or None."""
    name = item["metadata"]["name"]
    labels = item["metadata"].get("labels") or {}
    if labels.get(ROLE) not in set(Role):
        return f"EndpointSlice {name}: label {ROLE} is {labels.get(ROLE)!r}, not one of {', '.join(Role)}"
    if not labels.get(REVISION):
        return f"EndpointSlice {name}: label {REVISION} is missing"
    if item.get("addressType") not in {"IPv4", "IPv6"}:
        return f"EndpointSlice {name}: addressType {item.get('addressType')!r} is not an IP family"
    if item.get("endpoints") and _port(item) is None:
        return f"EndpointSlice {name}: no port is named {PORT_NAME!r}"
    return None


def _workers(item: Slice) -> Iterable[tuple[Endpoint, bool]]:
    labels = item["metadata"]["labels"]
    port = _port(item)
    for entry in item.get("endpoints") or ():
        addresses = entry.get("addresses") or ()
        if port is None or not addresses:
            continue
        conditions = entry.get("conditions") or {}
        terminating = conditions.get("terminating") is True
        yield (
            Endpoint(
                name=(entry.get("targetRef") or {}).get("name") or addresses[0],
                # All addresses of one entry are the same pod; the first is the one to use.
                address=addresses[0],
                port=port,
                role=Role(labels[ROLE]),
                revision=labels[REVISION],
                # An absent condition means ready, says the API.
                ready=conditions.get("ready") is not False and not terminating,
            ),
            terminating,
        )


def _port(item: Slice) -> int | None:
    ports = [entry for entry in item.get("ports") or () if (entry.get("protocol") or "TCP") == "TCP"]
    named = [entry for entry in ports if entry.get("name") == PORT_NAME]
    only = named or (ports if len(ports) == 1 and not ports[0].get("name") else [])
    port = only[0].get("port") if only else None
    return port if isinstance(port, int) else None


def _family(item: Slice) -> tuple[bool, str]:
    return item.get("addressType") != "IPv4", item["metadata"]["name"]
