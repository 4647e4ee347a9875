"""The last look at a model before it is served."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from tandem_serve.problems import StartError
from tests.unit.serve.conftest import load_model


def test_a_model_that_computes_nan_is_told_from_one_that_is_not_known(llama_dir: Path, tmp_path: Path) -> None:
    model = shutil.copytree(llama_dir, tmp_path / "model")
    tensors = load_file(model / "model.safetensors")
    tensors["model.norm.weight"].fill_(float("nan"))
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(StartError, match=r"^weights of the model: with them the model itself computes NaN in float32"):
        load_model(model)
