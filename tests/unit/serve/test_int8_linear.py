"""Weights as 8-bit integers: near to the exact ones, half of the memory, and known apart from them."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import nn

from tandem_serve.engine import device as devices
from tandem_serve.engine.int8_linear import Int8Linear
from tandem_serve.engine.loader import LoadedModel, LoadOptions, load
from tandem_serve.engine.progress import LoadProgress
from tandem_serve.problems import StartError


def loaded(directory: Path, **options: Any) -> LoadedModel:
    given = LoadOptions(directory=directory, **{"quantization": "int8"} | options)
    return load(given, LoadProgress(logging.getLogger("test")))


@pytest.mark.parametrize("tokens", [0, 1, 16, 17, 100])
@pytest.mark.parametrize("bias", [True, False])
@torch.inference_mode()
def test_the_product_is_within_one_percent_of_the_exact_one(tokens: int, bias: bool) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(128, 96, bias=bias, dtype=torch.bfloat16)
    given = torch.randn(2, tokens, 128, dtype=torch.bfloat16)
    expected = nn.functional.linear(
        given.float(), layer.weight.float(), None if layer.bias is None else layer.bias.float()
    )
    found = Int8Linear(layer)(given)
    assert found.shape == expected.shape
    assert float((found.float() - expected).norm()) <= 0.01 * float(expected.norm())


@torch.inference_mode()
def test_large_weights_are_converted_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = Int8Linear(nn.Linear(32, 50, dtype=torch.bfloat16))
    given = torch.randn(20, 32, dtype=torch.bfloat16)
    expected = layer(given)
    monkeypatch.setattr("tandem_serve.engine.int8_linear._PART", 100)
    torch.testing.assert_close(layer(given), expected)


def test_a_row_of_zeros_stays_zero() -> None:
    layer = nn.Linear(16, 4, bias=False, dtype=torch.bfloat16)
    nn.init.zeros_(layer.weight)
    assert not Int8Linear(layer)(torch.ones(1, 16, dtype=torch.bfloat16)).any()


def test_a_model_is_served_with_less_memory_and_is_known_apart(llama: LoadedModel, llama_dir: Path) -> None:
    quantised = loaded(llama_dir)
    layers = [module for module in quantised.runner.model.modules() if isinstance(module, Int8Linear)]
    assert len(layers) == 2 * 7 + 1
    assert quantised.layout.dtype is torch.bfloat16
    assert quantised.parameter_count == llama.parameter_count
    assert quantised.weight_bytes < 0.4 * llama.weight_bytes
    assert quantised.digest != llama.digest


def test_other_devices_are_refused(llama_dir: Path) -> None:
    with (
        mock.patch.object(devices, "choose_device", return_value=torch.device("cuda")),
        pytest.raises(StartError, match="--quantization = int8: weights are quantised on the CPU only"),
    ):
        loaded(llama_dir)
