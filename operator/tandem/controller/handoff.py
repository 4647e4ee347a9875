"""Whether decode workers take the KV of their prefill workers: the condition `HandOff`. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tandem.controller.conditions import Condition, false, find, true
from tandem.controller.loading import Refusal

TYPE = "HandOff"
REFUSED = "HandoffRefused"
_FIXES = {
    "protocol": "Prefill and decode run different versions of the server: give both the same image, by a tag that does "
    "not move or a digest, and replace the older pods.",
    "model": "Prefill and decode have loaded different weights: give both the same files, and replace the older pods.",
    "dtype": "Prefill and decode compute with different number types: give both the same dtype and quantization.",
}
_OTHER_FIX = "Prefill and decode have loaded different models: give both the same files, and replace the older pods."


def hand_off(refusals: Sequence[Refusal] | None, previous: Sequence[Mapping[str, Any]]) -> Condition | None:
    """The condition; as it was while nobody tells (`refusals` None), and None when nobody has ever told."""
    if refusals is None:
        known = find(previous, TYPE)
        if known is None:
            return None
        return Condition(TYPE, known["status"], known["reason"], known.get("message", ""))
    if not refusals:
        return true(TYPE, "Accepted", "no decode worker refuses the KV of its prefill workers")
    first = min(refusals, key=lambda refusal: refusal.pod)
    others = f" (and {len(refusals) - 1} more)" if len(refusals) > 1 else ""
    fix = _FIXES.get(first.reason, _OTHER_FIX)
    return false(
        TYPE,
        REFUSED,
        f"pod {first.pod}{others} refuses KV of its prefill workers, {first.reason}: {first.message}. Decode workers "
        f"compute such prompts themselves, which is right but slow. {fix}",
    )
