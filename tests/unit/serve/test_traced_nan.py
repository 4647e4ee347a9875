"""A recording that gives no numbers at all is as wrong as one that gives others."""

from __future__ import annotations

import logging
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

from tandem_serve.engine.kv_cache import KvMemory
from tandem_serve.engine.loader import LoadedModel
from tandem_serve.engine.traced import trace
from tests.unit.serve.test_traced import NORM


def nothing_for_many(self: Any, hidden: Tensor) -> Tensor:
    """A layer that, traced, gives NaN for more than one text."""
    if not torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        return hidden
    texts = torch.ones_like(hidden[0, :, 0]).sum()
    return hidden + 0 * (1.5 - texts).sqrt()


def test_a_trace_that_gives_nan_in_a_later_trial_is_not_used(
    llama: LoadedModel, caplog: pytest.LogCaptureFixture
) -> None:
    with mock.patch(NORM, nothing_for_many), caplog.at_level(logging.WARNING, logger="tandem_serve"):
        runner = trace(llama.runner, KvMemory(llama.layout, capacity_tokens=1024))
    assert runner is llama.runner
    (record,) = caplog.records
    assert "differs from what is computed by inf" in vars(record)["reason"]
