"""YAML read by libyaml: for tests that read whole builds, many times faster than PyYAML's own scanner."""

from __future__ import annotations

from typing import Any

import yaml


def read(text: str) -> Any:
    """The one document of a text."""
    return yaml.load(text, Loader=yaml.CSafeLoader)


def read_all(text: str) -> list[Any]:
    """Every document of a text."""
    return list(yaml.load_all(text, Loader=yaml.CSafeLoader))
