"""Decode steps that torch's interpreter runs on a CPU, so that Python starts one operation instead of several hundred.

One trace does for any number of sequences of any length: it holds the model's operations with the shapes as they come,
and what depends on the numbers of a step is in `kernels`, which are compiled and not traced. Where a model's code turns
a tensor into a Python number, a trace would freeze what it found; such models are not traced.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from tandem_serve.engine.attention import PackedBatch
from tandem_serve.engine.kv_cache import KvMemory
from tandem_serve.engine.packed_linear import PackedLinear
from tandem_serve.engine.replaying import Plan, Recording, Words, recorded, step_of
from tandem_serve.engine.runner import ModelRunner, Row, Runner
from tandem_serve.engine.singles import Singles

_TRACED = (19, 40, 18)
"""Lengths of the texts of the step that is traced."""
_TRIED = ((5,), (300, 17, 18, 3, 40), (20, 21))
"""Lengths of those of the steps that it is compared in."""
_WORDS = Words(
    done="decode steps traced", failed="decode steps are not traced: each is computed as usual, a little slower"
)


def trace(runner: ModelRunner, memory: KvMemory) -> Runner:
    """A runner that replays decode steps; see `recorded`."""
    return recorded(runner, memory, lambda: _record(runner, memory), _WORDS)


def _record(runner: ModelRunner, memory: KvMemory) -> Recording:
    run = _trace(runner, memory)
    weights = _opaque(runner.model)

    def replay(plan: Plan, rows: list[int]) -> Tensor:
        # Optimising would make another graph for each shape that comes.
        with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
            return run(*_numbers(runner.prepare(plan, rows, memory)), *weights)

    return Recording(replay, tuple((replay, step_of(runner.model, memory, lengths)) for lengths in _TRIED))


@torch.inference_mode()
def _trace(runner: ModelRunner, memory: KvMemory) -> Callable[..., Tensor]:
    plan = step_of(runner.model, memory, _TRACED)
    if len(plan) < len(_TRACED):
        raise ValueError(f"{memory.blocks} blocks of KV are too few for a step to trace")
    given = _numbers(runner.prepare(plan, list(range(len(plan))), memory))

    def step(*numbers: Tensor) -> Tensor:
        tokens, positions, wanted, rows, blocks, stops, lots = numbers[: len(given)]
        packed = PackedBatch(memory, Singles(memory, blocks, stops, lots), (), rows, as_gpu=False)
        return runner.compute(Row(tokens, positions, wanted, packed))

    runner.model.requires_grad_(requires_grad=False)
    # As errors they would be raised inside of torch's own code, which is not made for that.
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", torch.jit.TracerWarning)  # type: ignore[attr-defined]
        run: Callable[..., Tensor] = torch.jit.trace(step, (*given, *_opaque(runner.model)), check_trace=False)
    frozen = [one for one in caught if issubclass(one.category, torch.jit.TracerWarning)]  # type: ignore[attr-defined]
    if frozen:
        where = f"{Path(frozen[0].filename).name}:{frozen[0].lineno}"
        raise ValueError(
            f"the model's code turns a tensor into a number of Python ({where}), which a trace would freeze"
        )
    return run


def _numbers(row: Row) -> tuple[Tensor, ...]:
    singles = row.packed.singles
    if singles is None:
        raise ValueError("a decode step has spans of one token")
    return row.tokens, row.positions, row.wanted, row.packed.rows, singles.blocks, singles.stops, singles.lots


def _opaque(model: PreTrainedModel) -> tuple[Tensor, ...]:
    """Weights that a trace cannot hold: it takes them as inputs."""
    return tuple(module.weight for module in model.modules() if isinstance(module, PackedLinear))
