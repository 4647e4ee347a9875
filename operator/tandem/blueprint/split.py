"""How one worker's GPUs share a model, from the engine parameters of each backend."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Over how many GPUs each part of a layer is cut.

    `attention`, `dense` and `expert` say over how many GPUs one copy of attention, MLP and an expert is cut;
    `expert_groups` over how many groups experts are spread; `copies` how many groups of GPUs each hold whole attention
    layers, and so share the sequences; `stages` how many runs of layers there are, one after the other.
    """

    attention: int = 1
    dense: int = 1
    expert: int = 1
    expert_groups: int = 1
    copies: int = 1
    stages: int = 1
    gpus: int = 1


ONE = Split()


def split_of(backend: str, parameters: Mapping[str, object]) -> Split:
    """The split that engine parameters (unified names) make one worker of `backend` use."""
    size = {name: _size(parameters, f"{name}_parallel_size") for name in _SIZES}
    tensor, stages, data = size["tensor"], size["pipeline"], size["data"]
    attention_copies = parameters.get("enable_attention_dp") is True
    if backend == "vllm":
        # Experts are cut, or spread, over all GPUs of a stage; each data parallel copy holds all else.
        spread = parameters.get("enable_expert_parallel") is True
        return _split(tensor, tensor, tensor * data, tensor * data if spread else 1, copies=data, stages=stages)
    groups = size["moe_expert"]
    if backend == "sglang":
        copies = data if attention_copies else 1
        shared = _split(max(1, tensor // copies), tensor, tensor, groups, copies=copies, stages=stages)
        # Without attention copies, data parallel copies are whole models, and each takes the whole batch.
        return shared if attention_copies else replace(shared, gpus=shared.gpus * data)
    if backend == "trtllm" and attention_copies:
        return _split(1, tensor, tensor, groups, copies=tensor, stages=stages)
    return _split(tensor, tensor, tensor, groups, copies=1, stages=stages)


_SIZES = ("tensor", "pipeline", "data", "moe_expert")


def tensor_parallel(size: int) -> Split:
    """Everything cut over `size` GPUs."""
    return _split(size, size, size, 1, copies=1, stages=1)


def _split(attention: int, dense: int, across: int, groups: int, *, copies: int, stages: int) -> Split:
    return Split(
        attention=attention,
        dense=dense,
        expert=max(1, across // groups),
        expert_groups=groups,
        copies=copies,
        stages=stages,
        gpus=across * stages,
    )


def _size(parameters: Mapping[str, object], name: str) -> int:
    value = parameters.get(name)
    return value if type(value) is int and value > 0 else 1
