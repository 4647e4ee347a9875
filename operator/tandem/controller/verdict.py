"""How a reconcile ended."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Verdict:
    """`failed`: try again after a back-off of at least `at_least` seconds. `again_after`: look again then, though all
    went well."""

    failed: bool = False
    at_least: float = 0.0
    again_after: float | None = None
