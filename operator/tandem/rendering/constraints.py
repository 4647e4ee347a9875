"""What must hold between the parameters of a role, by the names that mapping tables use. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tandem.rendering.values import Value

Values = Mapping[str, Value]


@dataclass(frozen=True, slots=True)
class Broken:
    """A constraint that does not hold: at which parameter, why, what to do."""

    name: str
    reason: str
    fix: str


def _size(values: Values, name: str) -> int:
    found = values.get(name)
    return found if isinstance(found, int) else 1


def _experts(values: Values) -> Broken | None:
    """Experts are cut and spread over exactly the GPUs that share each layer."""
    parts = [name for name in ("moe_expert_parallel_size", "moe_tensor_parallel_size") if name in values]
    total, product = _size(values, "tensor_parallel_size"), 1
    for name in parts:
        product *= _size(values, name)
    fits = total == product if len(parts) == 2 else total % product == 0
    if not parts or fits:
        return None
    if len(parts) == 2:
        reason = f"tensorParallelSize {total} must be moeTensorParallelSize x moeExpertParallelSize, which is {product}"
        return Broken(parts[0], reason, f"Set tensorParallelSize to {product}, or change the other two.")
    reason = f"tensorParallelSize {total} must be a multiple of it"
    return Broken(parts[0], reason, "Use a divisor of tensorParallelSize.")


def _attention(values: Values) -> Broken | None:
    """Data parallel attention divides the GPUs that share each layer."""
    total, copies = _size(values, "tensor_parallel_size"), _size(values, "data_parallel_size")
    if values.get("enable_attention_dp") is not True or total % copies == 0:
        return None
    reason = f"with enableAttentionDp, tensorParallelSize {total} must be a multiple of it"
    return Broken("data_parallel_size", reason, "Use a divisor of tensorParallelSize.")


def _graphs(values: Values) -> Broken | None:
    """The largest graph is the largest of the sizes that graphs are recorded for."""
    sizes, largest = values.get("cuda_graph_batch_sizes"), values.get("cuda_graph_max_batch_size")
    if not isinstance(sizes, tuple) or largest is None or max(sizes) == largest:
        return None
    reason = f"with cudaGraphBatchSizes, it must be the largest of them, which is {max(sizes)}"
    return Broken("cuda_graph_max_batch_size", reason, "Remove it.")


def _blocks(values: Values) -> Broken | None:
    """The cache of a worker has room for one block at least."""
    tokens, block = values.get("kv_cache_max_tokens"), values.get("tokens_per_block")
    if not isinstance(tokens, int) or not isinstance(block, int) or tokens >= block:
        return None
    return Broken("kv_cache_max_tokens", f"it is less than one block of {block} tokens", "Make it larger.")


def _budget(values: Values) -> Broken | None:
    """One iteration has a token for each sequence, and without chunks room for the longest sequence."""
    tokens, batch, longest = (values.get(name) for name in ("max_num_tokens", "max_batch_size", "max_seq_len"))
    if not isinstance(tokens, int):
        return None
    if isinstance(batch, int) and tokens < batch:
        reason = f"it must be maxBatchSize at least, which is {batch}: each sequence needs a token in an iteration"
        return Broken("max_num_tokens", reason, "Raise it or lower maxBatchSize.")
    if values.get("enable_chunked_prefill") is False and isinstance(longest, int) and tokens < longest:
        reason = f"without enableChunkedPrefill it must be maxSeqLen at least, which is {longest}"
        return Broken("max_num_tokens", reason, "Raise it, lower maxSeqLen, or remove enableChunkedPrefill.")
    return None


CONSTRAINTS: Mapping[str, Callable[[Values], Broken | None]] = {
    "experts": _experts,
    "attention": _attention,
    "graphs": _graphs,
    "blocks": _blocks,
    "budget": _budget,
}
