"""Decode steps that were recorded and are replayed, for tiny models of many architectures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tandem_serve.engine.runner import ModelRunner
from tests.integration.serve.test_families import answers, reference
from tests.unit.serve import tiny
from tests.unit.serve.conftest import load_model
from tests.unit.serve.tape import TapeRecorder


@pytest.mark.parametrize("family", sorted(tiny.FAMILIES))
def test_replayed_steps_give_what_generate_gives(family: str, tmp_path: Path) -> None:
    """No step waits for the device, and no code freezes in a trace: the recorders would refuse it."""
    directory = tiny.save_family(tmp_path, family)
    expected = reference(directory)
    model = load_model(directory)
    as_on_a_gpu = replace(model, max_model_len=64, runner=ModelRunner(model.runner.model, as_gpu=True))
    assert answers(as_on_a_gpu, TapeRecorder()) == [*expected, expected[2]]
    assert answers(model, traced=True) == [*expected, expected[2]], "as on a CPU"
