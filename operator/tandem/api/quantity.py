"""Kubernetes quantities as numbers."""

from __future__ import annotations

import re
from decimal import Decimal

# Of k8s.io/apimachinery/pkg/api/resource, without the sign: the API server fails on other texts deep inside an apply.
QUANTITY = r"^([0-9]+(\.[0-9]*)?|\.[0-9]+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]+)?$"
_PARTS = re.compile(r"(?P<number>[-+]?[0-9.]+(?:[eE][-+]?[0-9]+)?)(?P<suffix>[numkMGTPE]?|[KMGTPE]i)")
_SUFFIXES = {
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("1e-3"),
    "": Decimal(1),
    "k": Decimal(10) ** 3,
    "M": Decimal(10) ** 6,
    "G": Decimal(10) ** 9,
    "T": Decimal(10) ** 12,
    "P": Decimal(10) ** 15,
    "E": Decimal(10) ** 18,
    "Ki": Decimal(2) ** 10,
    "Mi": Decimal(2) ** 20,
    "Gi": Decimal(2) ** 30,
    "Ti": Decimal(2) ** 40,
    "Pi": Decimal(2) ** 50,
    "Ei": Decimal(2) ** 60,
}


def quantity(value: object) -> Decimal | None:
    """The number that a Kubernetes quantity stands for; None when it is none."""
    match = _PARTS.fullmatch(str(value).strip())
    if match is None:
        return None
    try:
        return Decimal(match["number"]) * _SUFFIXES[match["suffix"]]
    except ArithmeticError:
        return None


def meant(text: str) -> str | None:
    """The quantity that a text with a wrong unit or spaces most likely stands for (`8GB`: `8G`), None when unclear."""
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([kmgtpe])?(i?)(b|bytes?)?\s*", text, re.IGNORECASE)
    if match is None:
        return None
    number, unit, binary = match[1], (match[2] or "").upper(), match[3].lower()
    if unit == "K" and not binary:
        unit = "k"
    found = f"{number}{unit}{binary}"
    return found if re.match(QUANTITY, found) else None
