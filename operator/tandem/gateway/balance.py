"""Which of several equal workers takes the next request. Pure: loads, turn and key are given."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from enum import StrEnum

from tandem.gateway.fleet import Endpoint

# A worker takes at most this multiple of the mean load for the sake of its cache; then the next in line does.
AFFINITY_LOAD_BOUND = 1.25


class Policy(StrEnum):
    """How requests are spread over the workers of a pool."""

    ROUND_ROBIN = "roundRobin"
    LEAST_LOADED = "leastLoaded"
    PREFIX_AFFINITY = "prefixAffinity"


def choose(
    policy: Policy, candidates: Sequence[Endpoint], *, loads: Mapping[str, int], turn: int, prefix: bytes
) -> Endpoint:
    """One of `candidates` (at least one, in a stable order).

    `loads` counts requests in flight by `Endpoint.identity` (missing = 0); `turn` grows by one per choice and breaks
    ties; `prefix` is the beginning of the prompt, which only `prefixAffinity` looks at.
    """
    if policy is Policy.ROUND_ROBIN:
        return candidates[turn % len(candidates)]
    if policy is Policy.LEAST_LOADED:
        return _least_loaded(candidates, loads, turn)
    return _nearest_with_room(candidates, loads, prefix)


def _least_loaded(candidates: Sequence[Endpoint], loads: Mapping[str, int], turn: int) -> Endpoint:
    least = min(loads.get(endpoint.identity, 0) for endpoint in candidates)
    tied = [endpoint for endpoint in candidates if loads.get(endpoint.identity, 0) == least]
    return tied[turn % len(tied)]


def _nearest_with_room(candidates: Sequence[Endpoint], loads: Mapping[str, int], prefix: bytes) -> Endpoint:
    """Rendezvous hashing with bounded load: equal prefixes meet on one worker until it has more than its share."""
    total = sum(loads.get(endpoint.identity, 0) for endpoint in candidates)
    bound = math.ceil(AFFINITY_LOAD_BOUND * (total + 1) / len(candidates))
    by_score = sorted(candidates, key=lambda endpoint: _score(endpoint, prefix), reverse=True)
    return next(endpoint for endpoint in by_score if loads.get(endpoint.identity, 0) < bound)


def _score(endpoint: Endpoint, prefix: bytes) -> bytes:
    return hashlib.blake2b(endpoint.identity.encode() + b"\0" + prefix, digest_size=8).digest()
