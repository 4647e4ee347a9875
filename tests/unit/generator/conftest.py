"""What the generator's tests share."""

from __future__ import annotations

from typing import Any

import pytest

from tandem.rendering.library import Library, load_library


@pytest.fixture(scope="session")
def library() -> Library:
    return load_library()


@pytest.fixture
def minimal() -> dict[str, Any]:
    """An input of the two keys that every input needs."""
    return {"ServiceConfig": {"model_path": "Qwen/Qwen3-32B", "served_model_name": "qwen"}}


@pytest.fixture
def disagg(minimal) -> dict[str, Any]:
    """Two prefill and three decode workers of two GPUs each."""
    return {
        **minimal,
        "Workers": {"prefill": {"tensor_parallel_size": 2}, "decode": {"tensor_parallel_size": 2}},
        "WorkerConfig": {"prefill_workers": 2, "decode_workers": 3},
        "SlaConfig": {"isl": 4000, "osl": 500},
    }
