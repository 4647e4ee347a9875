"""Puts other layers in the place of a model's linear layers, so that their weights are never in memory twice."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from tandem_serve.engine.resident import MappedFiles, return_freed

_FREED_TOGETHER = 16 * 2**20
"""Bytes of old weights that may stay with the C library: giving them back takes milliseconds."""


def replace_linears(
    model: nn.Module, make: Callable[[nn.Linear], nn.Module], *, wanted: Callable[[Tensor], bool]
) -> int:
    """Replaces the linear layers whose weight is `wanted`, one after the other. Returns the bytes of those weights.

    Exactly `nn.Linear`: what else a subclass does would be lost. A weight that is an embedding, too, stays: it would be
    in memory twice.
    """
    files = MappedFiles()
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    # By name, one at a time: a list of the layers would keep all their weights until the end.
    names = [
        name
        for name, module in model.named_modules()
        if type(module) is nn.Linear and id(module.weight) not in embeddings and wanted(module.weight)
    ]
    replaced = returned = 0
    for name in names:
        layer = model.get_submodule(name)
        if isinstance(layer, nn.Linear):
            model.set_submodule(name, make(layer))
            replaced += layer.weight.nbytes
            files.let_go(layer.weight)
        del layer
        if replaced - returned >= _FREED_TOGETHER:
            return_freed()
            returned = replaced
    return_freed()
    return replaced
