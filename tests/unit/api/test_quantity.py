"""Kubernetes quantities: as numbers, and what a wrong one most likely stands for."""

from __future__ import annotations

from decimal import Decimal

import pytest

from tandem.api.quantity import meant, quantity


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", "1"),
        (2, "2"),
        ("1500m", "1.5"),
        ("0.5", "0.5"),
        ("1Ki", "1024"),
        ("1k", "1000"),
        ("2Gi", str(2 * 1024**3)),
        ("1e3", "1000"),
        ("1E3", "1000"),
        ("2E", str(2 * 10**18)),
        ("2Ei", str(2 * 2**60)),
        ("100n", "1e-7"),
    ],
)
def test_quantities_are_numbers(text: object, value: str) -> None:
    assert quantity(text) == Decimal(value)


@pytest.mark.parametrize("text", ["", "x", "1Xi", "1 G", "Gi", "1.2.3"])
def test_what_is_no_quantity_is_none(text: str) -> None:
    assert quantity(text) is None


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("8GB", "8G"),
        ("8 gib", "8Gi"),
        ("8gi", "8Gi"),
        ("512mb", "512M"),
        ("1.5 TB", "1.5T"),
        ("64KB", "64k"),
        ("100 bytes", "100"),
        ("lots", None),
        ("8 apples", None),
        ("-1Gi", None),
    ],
)
def test_a_wrong_unit_leads_to_the_right_one(text: str, found: str | None) -> None:
    assert meant(text) == found
