"""Linear layers with packed weights give what torch's own give."""

from __future__ import annotations

import weakref
from pathlib import Path

import psutil
import pytest
import torch
from torch import nn

from tandem_serve.engine.kernels import rows_computed
from tandem_serve.engine.packed_linear import PackedLinear, pack_linears
from tandem_serve.engine.resident import MappedFiles


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(40, 24)
        self.inner = nn.Sequential(nn.Linear(24, 56), nn.Linear(56, 24, bias=False))
        self.head = nn.Linear(24, 40, bias=False)
        self.head.weight = self.embedding.weight


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tokens", [0, 1, 7, 32, 33, 130])
@torch.inference_mode()
def test_the_result_is_that_of_the_layer_it_stands_for(dtype: torch.dtype, tokens: int) -> None:
    model = Small().to(dtype)
    given = torch.randn(1, tokens, 24, dtype=dtype)
    expected = model.inner(given)
    pack_linears(model)
    assert all(isinstance(layer, PackedLinear) for layer in model.inner)
    torch.testing.assert_close(model.inner(given), expected)


def test_products_come_in_few_sizes_and_little_is_computed_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """oneDNN makes code for each size that reaches it, and keeps it."""
    layer = PackedLinear(nn.Linear(8, 4))
    reached: list[int] = []

    def watched(tokens: torch.Tensor, *_: object) -> torch.Tensor:
        reached.append(len(tokens))
        return tokens[:, :4]

    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", watched)
    for tokens in range(1, 513):
        assert layer(torch.zeros(1, tokens, 8)).shape == (1, tokens, 4)
    assert reached == [rows_computed(tokens) for tokens in range(1, 513)]
    assert len({rows_computed(tokens) for tokens in range(1, 2049)}) == 32 + 6 * 8
    assert all(0 <= (rows_computed(tokens) - tokens) * 8 < tokens for tokens in range(1, 2049))


def test_a_tied_weight_stays_in_memory_once() -> None:
    model = Small()
    pack_linears(model)
    assert model.head.weight is model.embedding.weight


def test_layers_are_packed_one_after_the_other_and_let_go_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Small()
    left = [weakref.ref(layer.weight) for layer in model.inner]
    alive = []
    pack = PackedLinear.__init__

    def watched(self: PackedLinear, linear: nn.Linear) -> None:
        alive.append(sum(ref() is not None for ref in left))
        pack(self, linear)

    monkeypatch.setattr(PackedLinear, "__init__", watched)
    pack_linears(model)
    assert alive == [2, 1]


def resident(path: Path) -> int:
    """Bytes of the file's mapping that are in this process's memory."""
    return sum(one.rss for one in psutil.Process().memory_maps(grouped=False) if one.path == str(path))


def test_memory_of_a_file_is_let_go_and_the_file_still_has_it(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(bytes(range(256)) * 4096)
    mapped = torch.from_file(str(path), shared=False, size=1 << 20, dtype=torch.uint8)
    part, before = mapped[4096:], mapped.clone()
    MappedFiles().let_go(part)
    assert resident(path) < 500_000
    assert torch.equal(mapped, before)
    own = torch.ones(100_000)
    MappedFiles().let_go(own)
    assert own.sum() == 100_000


def test_memory_of_a_converted_tensor_is_let_go_when_the_tensor_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(bytes(1 << 20))
    mapped = torch.from_file(str(path), shared=False, size=1 << 20, dtype=torch.uint8)
    part = mapped[:]
    MappedFiles().let_go_after(part)
    converted = part.to(torch.int16)
    del part
    assert resident(path) < 500_000
    assert not converted.any()
