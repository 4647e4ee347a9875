"""Finds the data that ships with the package: templates, rules, CRDs."""

from __future__ import annotations

from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Literal


def data_dir(name: Literal["templates", "rules", "crds"]) -> Traversable:
    """The directory `name`: inside the installed package, or at the root of the checkout for an editable install."""
    packaged = files("tandem") / "_data" / name
    return packaged if packaged.is_dir() else Path(__file__).resolve().parents[2] / name
