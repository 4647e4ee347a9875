"""Where a pod template has a field."""

from __future__ import annotations

from tandem.api.podfields import FIELDS, TOP


def place_of(field: str) -> str | None:
    """Where a pod template has the field of this name (`spec.containers[]`; empty for its top), None when nowhere.

    Of several places the nearest to the top.
    """
    seen: set[str] = set()
    waiting = [(TOP, "")]
    for kind, place in waiting:  # grows while it is read: breadth first
        fields = FIELDS[kind]
        if field in fields:
            return place
        for name, inner in fields.items():
            below = inner.strip("[]{}")
            if below in FIELDS and below not in seen and not place.startswith("metadata"):
                seen.add(below)
                waiting.append((below, f"{place}.{name}".lstrip(".") + ("[]" if inner.startswith("[") else "")))
    return None
