"""Blueprint: what config.json says about a model, as frozen numbers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

from tandem.api.problems import Problem, Refused, refuse, shorten

_BYTES: Mapping[str, int] = {"float32": 4, "float16": 2, "bfloat16": 2}
# Families whose parameter count follows from the dimensions below alone; others have None.
_DENSE = frozenset(("llama", "mistral", "qwen2", "qwen3"))
# Where families write how many experts a layer has.
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")


@dataclass(frozen=True, slots=True, kw_only=True)
class Blueprint:
    """Facts of a model.

    `digest` identifies the configuration. `weight_bytes` and `kv_bytes_per_token` are for the number format that
    config.json names. `nextn` are the tokens that it predicts beyond the next one. A fact that the configuration does
    not give is None.
    """

    digest: str
    max_seq_len: int | None
    total_params: int | None
    weight_bytes: int | None
    kv_bytes_per_token: int | None
    is_moe: bool | None = None
    nextn: int | None = None


def from_config(config: Mapping[str, object]) -> Blueprint:
    """The blueprint of a parsed config.json; raises `Refused` with every dimension that cannot be."""
    if not isinstance(config.get("model_type"), str):
        raise refuse(
            "model_type", config.get("model_type"), "config.json names no model type", "Give a model's config.json."
        )
    dims = _Dimensions(config)
    dtype = config.get("dtype", config.get("torch_dtype"))
    size = _BYTES.get(dtype) if isinstance(dtype, str) else None
    params = _dense_params(config, dims)
    text = json.dumps(config, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return Blueprint(
        digest=hashlib.sha256(text.encode()).hexdigest(),
        max_seq_len=dims.optional("max_position_embeddings"),
        total_params=params,
        weight_bytes=None if params is None or size is None else params * size,
        kv_bytes_per_token=_kv_bytes(config, dims, size),
        is_moe=_is_moe(config),
        nextn=_count(config.get("num_nextn_predict_layers")),
    )


class _Dimensions:
    """Positive whole numbers of a config.json."""

    def __init__(self, config: Mapping[str, object]) -> None:
        self._config = config
        known = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim")
        more = ("intermediate_size", "vocab_size", "max_position_embeddings")
        problems = [
            Problem(name, shorten(value), "a dimension is a whole number above 0", "Correct config.json.")
            for name in (*known, *more)
            if (value := config.get(name)) is not None and (type(value) is not int or value < 1)
        ]
        if problems:
            raise Refused(problems)

    def optional(self, name: str) -> int | None:
        value = self._config.get(name)
        return value if isinstance(value, int) else None

    def heads(self) -> tuple[int, int, int] | None:
        """(query heads, KV heads, head size), None when the configuration has no such attention."""
        query, hidden = self.optional("num_attention_heads"), self.optional("hidden_size")
        if query is None or hidden is None:
            return None
        return query, self.optional("num_key_value_heads") or query, self.optional("head_dim") or hidden // query


def _count(value: object) -> int | None:
    return value if type(value) is int and value >= 0 else None


def _is_moe(config: Mapping[str, object]) -> bool | None:
    if any((_count(config.get(name)) or 0) > 1 for name in _EXPERTS):
        return True
    return False if config["model_type"] in _DENSE else None


def _kv_bytes(config: Mapping[str, object], dims: _Dimensions, size: int | None) -> int | None:
    layers, heads = dims.optional("num_hidden_layers"), dims.heads()
    compressed = "kv_lora_rank" in config or "layer_types" in config or "sliding_window_pattern" in config
    if layers is None or heads is None or size is None or compressed:
        return None
    return 2 * layers * heads[1] * heads[2] * size


def _dense_params(config: Mapping[str, object], dims: _Dimensions) -> int | None:
    """V·H·(1 or 2) + L·(attention + 3·H·I + norms) + H, for families without experts or other extras."""
    heads = dims.heads()
    vocab, hidden = dims.optional("vocab_size"), dims.optional("hidden_size")
    layers, inner = dims.optional("num_hidden_layers"), dims.optional("intermediate_size")
    if config["model_type"] not in _DENSE or heads is None or vocab is None or hidden is None:
        return None
    if layers is None or inner is None:
        return None
    query, kv, size = heads
    attention = 2 * hidden * query * size + 2 * hidden * kv * size
    if config["model_type"] == "qwen2":
        attention += (query + 2 * kv) * size
    elif config["model_type"] == "qwen3":
        attention += 2 * size
    if config.get("attention_bias") is True and config["model_type"] != "qwen2":
        attention += (query + 2 * kv) * size + hidden
    mlp = 3 * hidden * inner + (2 * inner + hidden if config.get("mlp_bias") is True else 0)
    embedding = vocab * hidden * (1 if config.get("tie_word_embeddings") is True else 2)
    return embedding + layers * (attention + mlp + 2 * hidden) + hidden
