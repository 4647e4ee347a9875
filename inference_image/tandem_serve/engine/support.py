"""Which models the packed engine serves exactly. What it cannot is refused at start, with the reason."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PretrainedConfig

from tandem_serve.engine.kv_cache import KvLayout
from tandem_serve.problems import StartError, load_error

_FIX = "serve it with backend vllm, or choose a decoder-only model that keeps keys and values in every layer"
_FULL, _SLIDING = "full_attention", "sliding_attention"


def refuse_unsupported(config: PretrainedConfig, model_class: type, *, max_model_len: int) -> None:
    """Raises `StartError` when sequences of this model, each of at most `max_model_len` tokens, cannot be batched
    exactly.
    """
    if getattr(config, "is_encoder_decoder", False):
        raise _refusal("is_encoder_decoder", True, "encoder-decoder models keep another kind of cache")
    if getattr(model_class, "_is_stateful", False):
        raise _refusal("model_type", config.model_type, "its layers keep a recurrent state instead of keys and values")
    if not getattr(model_class, "_supports_attention_backend", False):
        raise _refusal("model_type", config.model_type, "its attention cannot be replaced by the packed one")
    stored = getattr(config, "quantization_config", None)
    if stored is not None:
        method = stored.get("quant_method") if isinstance(stored, dict) else getattr(stored, "quant_method", None)
        reason = "the weights were saved quantised, in a form that this server does not read"
        fix = "give the weights in bfloat16 (--quantization int8 makes them small at the start), or take backend vllm"
        raise _refusal("quantization_config", method, reason, fix=fix)
    for index, kind in enumerate(getattr(config, "layer_types", None) or []):
        if kind not in (_FULL, _SLIDING):
            raise _refusal(f"layer_types[{index}]", kind, "only full and sliding attention are batched exactly")
    for key in ("kv_lora_rank", "num_kv_shared_layers", "attention_chunk_size", "use_bidirectional_attention"):
        if getattr(config, key, None):
            raise _refusal(key, getattr(config, key), "the packed attention does not do this")
    _refuse_rotation_by_length(config, max_model_len)


def _refuse_rotation_by_length(config: PretrainedConfig, max_model_len: int) -> None:
    """Rotations of this kind are those of the longest text in a batch, and of the longest so far in one text."""
    text: Any = config.get_text_config(decoder=True)
    rotation = getattr(text, "rope_parameters", None) or {}
    for kind in (rotation, *(part for part in rotation.values() if isinstance(part, dict))):
        limit = kind.get("original_max_position_embeddings")
        if kind.get("rope_type") == "longrope" and limit is not None and max_model_len > limit:
            reason = f"tokens turn by other angles in texts of more than {limit} tokens: not exact beside shorter ones"
            fix = f"give --max-model-len {limit}, or serve it with backend vllm"
            raise _refusal("rope_parameters.rope_type", "longrope", reason, fix=fix)


def windows(config: PretrainedConfig) -> list[int | None]:
    """Of each layer how many tokens it sees, itself included; None: all."""
    text: Any = config.get_text_config(decoder=True)
    window = getattr(text, "sliding_window", None)
    if getattr(text, "use_sliding_window", True) is False:
        window = None
    kinds = getattr(text, "layer_types", None) or [_SLIDING] * text.num_hidden_layers
    return [window if kind == _SLIDING else None for kind in kinds]


def _refusal(key: str, value: object, reason: str, *, fix: str = _FIX) -> StartError:
    return load_error(f"config.json: {key}", value=str(value), reason=reason, fix=fix)


def kv_layout(config: PretrainedConfig, *, dtype: torch.dtype, device: torch.device) -> KvLayout:
    """The KV of one token of this model."""
    text: Any = config.get_text_config(decoder=True)
    heads = text.num_attention_heads
    return KvLayout(
        layers=text.num_hidden_layers,
        kv_heads=getattr(text, "num_key_value_heads", None) or heads,
        head_dim=getattr(text, "head_dim", None) or text.hidden_size // heads,
        dtype=dtype,
        device=device,
    )
