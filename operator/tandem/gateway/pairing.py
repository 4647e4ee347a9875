"""Which prefill and which decode worker serve a request together. Pure.

Only workers of equal revision may meet: their KV layouts agree. While a new revision comes up beside the old one, each
gets requests by its share of the pair capacity that is ready.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tandem.gateway.fleet import Endpoint

Choose = Callable[[Sequence[Endpoint]], Endpoint]


@dataclass(frozen=True, slots=True)
class Pair:
    """The workers of one attempt; without a prefill worker, decode computes the prompt itself."""

    prefill: Endpoint | None
    decode: Endpoint


def capacities(prefills: Sequence[Endpoint], decodes: Sequence[Endpoint]) -> dict[str, float]:
    """The pair capacity of each revision that can form one, as a share of all.

    A revision is worth its scarcer side: with a third of the prefill and half of the decode workers it serves a third.
    """
    prefill_of = Counter(endpoint.revision for endpoint in prefills)
    decode_of = Counter(endpoint.revision for endpoint in decodes)
    return {
        revision: min(prefill_of[revision] / len(prefills), decode_of[revision] / len(decodes))
        for revision in sorted(prefill_of.keys() & decode_of.keys())
    }


def pick_revision(weights: dict[str, float], draw: float) -> str:
    """The revision that `draw` (0 <= draw < 1) falls on when each has its weight (not empty, all above 0)."""
    remaining = draw * sum(weights.values())
    for revision, weight in weights.items():
        remaining -= weight
        if remaining < 0:
            return revision
    return next(reversed(weights))


def choose_pair(
    prefills: Sequence[Endpoint], decodes: Sequence[Endpoint], *, choose: Choose, draw: float
) -> Pair | None:
    """A pair of equal revision; else a decode worker alone; else None.

    `choose` balances within one side of one revision.
    """
    if not decodes:
        return None
    weights = capacities(prefills, decodes) if prefills else {}
    if not weights:
        return Pair(prefill=None, decode=choose(decodes))
    revision = pick_revision(weights, draw)
    return Pair(
        prefill=choose([endpoint for endpoint in prefills if endpoint.revision == revision]),
        decode=choose([endpoint for endpoint in decodes if endpoint.revision == revision]),
    )
