"""What a role asks of a worker, from its engine parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from tandem.blueprint.formats import INT8_CHANNEL, PLAIN_BYTES
from tandem.blueprint.memory import Load
from tandem.blueprint.model import Blueprint
from tandem.blueprint.quantisation import Quantisation
from tandem.blueprint.split import Split

# Tokens of a cache block, and tokens that one iteration computes, where nobody says: vLLM's.
_BLOCK = 16
_STEP = 8192
_CACHE_BYTES: Mapping[str, int] = {
    "fp8": 1,
    "fp8_e4m3": 1,
    "fp8_e5m2": 1,
    "int8": 1,
    "float16": 2,
    "bfloat16": 2,
    "float32": 4,
}
# What --dtype of the bundled server may be.
_BUNDLED = frozenset(("float32", "bfloat16", "float16"))
# Backends whose batch size is that of each copy of the attention layers.
_BATCH_PER_COPY = frozenset(("vllm", "trtllm"))
# vLLM tries a whole step when it starts, and TensorRT-LLM allocates one.
_RESERVES_STEPS = frozenset(("vllm", "trtllm"))


def served(
    blueprint: Blueprint, backend: str, *, gpu: bool, dtype: str | None = None, quantization: str | None = None
) -> Blueprint:
    """The blueprint in the number formats that a backend computes in, which need not be those of the files.

    The bundled server takes float32 on a CPU and bfloat16 on a GPU, unless its `--dtype` and `--quantization` say
    otherwise; the engines halve float32.
    """
    if blueprint.structure is None:
        return blueprint
    if backend == "torch":
        return _bundled(blueprint, gpu=gpu, dtype=dtype, integers=quantization == "int8")
    computed = "float16" if blueprint.dtype == "float32" else blueprint.dtype
    return blueprint if computed == blueprint.dtype else replace(blueprint, dtype=computed, weights_from="config")


def _bundled(blueprint: Blueprint, *, gpu: bool, dtype: str | None, integers: bool) -> Blueprint:
    computed = dtype if dtype in _BUNDLED else "bfloat16" if gpu or integers else "float32"
    quantisation = blueprint.quantisation
    if integers and quantisation is None and not blueprint.is_moe:  # experts stay as they are
        quantisation = Quantisation("int8", INT8_CHANNEL)
    if computed == blueprint.dtype and quantisation is blueprint.quantisation:
        return blueprint
    return replace(blueprint, dtype=computed, quantisation=quantisation, weights_from="config")


def load_of(backend: str, parameters: Mapping[str, object], blueprint: Blueprint, split: Split) -> Load:
    """The load that a role's parameters (unified names) ask for; one sequence where no batch size is given.

    A sequence is never longer than the cache, where the size of that is given.
    """
    cache = _number(parameters, "kv_cache_max_tokens")
    length = _number(parameters, "max_seq_len") or blueprint.max_seq_len or _STEP
    length = length if cache is None else min(length, cache)
    batch = _number(parameters, "max_batch_size") or 1
    step = _number(parameters, "max_num_tokens") or _number(parameters, "max_prefill_tokens") or _STEP
    value = PLAIN_BYTES.get(blueprint.dtype or "", 2)
    copies, reserved = split.copies if backend in _BATCH_PER_COPY else 1, backend in _RESERVES_STEPS
    return Load(
        batch=batch * copies,
        length=length,
        step=step if reserved else min(step, batch * length, cache or step),
        kv_bytes=_CACHE_BYTES.get(str(parameters.get("kv_cache_dtype", "auto")), value),
        value_bytes=value,
        block=_number(parameters, "tokens_per_block") or _BLOCK,
        cache_tokens=cache,
        copies=copies,
        reserved=reserved,
    )


def _number(parameters: Mapping[str, object], name: str) -> int | None:
    value = parameters.get(name)
    return value if type(value) is int and value > 0 else None
