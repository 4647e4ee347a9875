"""Bounds of a model's speed, for people: always told as bounds."""

from __future__ import annotations

from tandem.blueprint.roofline import Bounds

_UNKNOWN = "none: the layers of the model are not known"


def told(found: Bounds | None, *, length: int) -> tuple[str, ...]:
    """Lines that say what no engine can do better."""
    if found is None:
        return (_UNKNOWN,)
    each = f"each further after at least {_time(found.token_seconds)} ({found.limited_by})"
    return (
        f"first token after at least {_time(found.first_token_seconds)}, for {length:,} tokens",
        f"{each}, at most {found.tokens_per_second:,.0f} tokens per second",
        "no engine is faster; real ones are slower",
    )


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.3g} ms"
