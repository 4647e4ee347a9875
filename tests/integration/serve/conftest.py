"""The small models of the unit tests, made once for these tests too."""

from __future__ import annotations

import pytest

from tandem_serve.engine.loader import LoadedModel
from tests.unit.serve.conftest import (  # noqa: F401
    _loggers_as_before,
    endless,
    llama,
    llama_dir,
    qwen2,
    qwen2_dir,
)
from tests.unit.serve.handoffs import NEW, alone


@pytest.fixture(scope="session")
def expected(endless: LoadedModel) -> str:  # noqa: F811
    """The text that one worker gives."""
    return alone(endless, new_tokens=NEW)
