"""Decode workers that take no KV of their prefill workers: how routers tell of them, and how users are told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

_FIXES = {
    "protocol": "Prefill and decode run different versions of the server: give both the same image, by a tag that does "
    "not move or a digest, and replace the older pods.",
    "model": "Prefill and decode have loaded different weights, or quantise them differently: give both the same files "
    "and the same --quantization, and replace the older pods.",
    "dtype": "Prefill and decode compute with different number types: give both the same dtype and quantization.",
}
_OTHER_FIX = "Prefill and decode have loaded different models: give both the same files, and replace the older pods."


@dataclass(frozen=True, slots=True)
class Refusal:
    """A decode worker that takes no KV of its prefill workers, and what differs: protocol, model, dtype or layout."""

    pod: str
    reason: str
    message: str


def read_refusals(answer: Mapping[str, Any]) -> tuple[Refusal, ...] | None:
    """Who refuses, of what a router answers at `/loading`; None when it does not tell."""
    with suppress(KeyError, TypeError):
        return tuple(
            Refusal(*(str(refused[key]) for key in ("name", "reason", "message")))
            for refused in answer["refused_handoffs"]
        )
    return None


def words_of(refusals: Sequence[Refusal]) -> str:
    """Who refuses (at least one), why, what follows and what to do."""
    first = min(refusals, key=lambda refusal: refusal.pod)
    others = f" (and {len(refusals) - 1} more)" if len(refusals) > 1 else ""
    return (
        f"pod {first.pod}{others} refuses KV of its prefill workers, {first.reason}: {first.message}. Decode workers "
        f"compute such prompts themselves, which is right but slow. {_FIXES.get(first.reason, _OTHER_FIX)}"
    )
