"""The small models of the unit tests, made once for these tests too."""

from __future__ import annotations

from tests.unit.serve.conftest import (  # noqa: F401
    _loggers_as_before,
    llama,
    llama_dir,
    qwen2,
    qwen2_dir,
)
