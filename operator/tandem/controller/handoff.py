"""Whether decode workers take the KV of their prefill workers: the condition `HandOff`. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tandem.api.handoff import Refusal, words_of
from tandem.controller.conditions import Condition, false, find, true

TYPE = "HandOff"
REFUSED = "HandoffRefused"


def hand_off(refusals: Sequence[Refusal] | None, previous: Sequence[Mapping[str, Any]]) -> Condition | None:
    """The condition; as it was while nobody tells (`refusals` None), and None when nobody has ever told."""
    if refusals is None:
        known = find(previous, TYPE)
        if known is None:
            return None
        return Condition(TYPE, known["status"], known["reason"], known.get("message", ""))
    if not refusals:
        return true(TYPE, "Accepted", "no decode worker refuses the KV of its prefill workers")
    return false(TYPE, REFUSED, words_of(refusals))
