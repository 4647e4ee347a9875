"""Tiny random models with a tokenizer of their own, made in a second, and the settings to serve them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CONFIG_MAPPING,
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from tandem_serve.config import ConfigFile, ServeConfig
from tandem_serve.settings import Settings

TEXT = "the quick brown fox jumps over the lazy dog while the early bird catches the worm at dawn. "
VOCABULARY = 320
CHAT_TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools here') }}{% endif %}"
    "<s>{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
)
_SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "initializer_range": 0.2,
}


def save_tokenizer(directory: Path, *, chat_template: str | None = CHAT_TEMPLATE) -> None:
    """A byte-level BPE tokenizer: every text has tokens, and decodes to itself."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT * 3], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    fast.chat_template = chat_template
    fast.save_pretrained(directory)


def save_llama(directory: Path, *, seed: int = 0, **changes: Any) -> Path:
    """A Llama with grouped heads; other seeds give other weights."""
    torch.manual_seed(seed)
    LlamaForCausalLM(LlamaConfig(**_SHAPE | changes)).save_pretrained(directory)
    save_tokenizer(directory)
    return directory


def save_qwen2(directory: Path) -> Path:
    """A Qwen2: biases in attention, tied embeddings."""
    torch.manual_seed(1)
    Qwen2ForCausalLM(Qwen2Config(**_SHAPE, tie_word_embeddings=True)).save_pretrained(directory)
    save_tokenizer(directory)
    return directory


_EXPERTS = {"num_experts_per_tok": 2, "num_local_experts": 4, "num_experts": 4, "moe_intermediate_size": 64}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "qwen2": ("qwen2", {"tie_word_embeddings": True}),
    "qwen2-mixed": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 16, "layer_types": ["full_attention", "sliding_attention"]},
    ),
    "qwen3": ("qwen3", {"head_dim": 16}),
    "mistral": ("mistral", {"sliding_window": 16}),
    "gemma2": (
        "gemma2",
        {"sliding_window": 16, "head_dim": 16, "attn_logit_softcapping": 2.0, "tie_word_embeddings": False},
    ),
    "gemma3": ("gemma3_text", {"sliding_window": 16, "head_dim": 16, "tie_word_embeddings": False}),
    "mixtral": ("mixtral", _EXPERTS),
    "qwen3-moe": ("qwen3_moe", {**_EXPERTS, "head_dim": 16}),
    "gpt-oss": ("gpt_oss", {**_EXPERTS, "sliding_window": 16, "head_dim": 16}),
    "gpt-neox": ("gpt_neox", {"num_key_value_heads": 4}),
    "phi": ("phi", {}),
}
"""Architectures by name: model type and what its configuration says besides the common shape."""


def save_family(directory: Path, name: str) -> Path:
    """A tiny random model of a family."""
    kind, changes = FAMILIES[name]
    torch.manual_seed(2)
    config = CONFIG_MAPPING[kind](**_SHAPE | {"pad_token_id": None} | changes)
    AutoModelForCausalLM.from_config(config).save_pretrained(directory)
    save_tokenizer(directory)
    return directory


def edit_config(directory: Path, **changes: Any) -> None:
    """Changes keys of a model's config.json."""
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def settings(model: Path, *, generation: dict[str, Any] | None = None, **changes: Any) -> Settings:
    """Settings of a server for `model`; `generation` are keys of the config file."""
    config = ServeConfig(ConfigFile.model_validate({"GENERATION": generation or {}}))
    known: dict[str, Any] = {"served_name": "tiny", "role": "agg", "host": "127.0.0.1", "port": 0, "max_num_seqs": 8}
    return Settings(model=str(model), config=config, **known | {"kv_cache_tokens": 8192} | changes)


def generated(
    directory: Path, prompts: Iterable[Sequence[int]], *, new_tokens: int, **options: float
) -> list[list[int]]:
    """What transformers' own `generate()` continues each prompt with, in float32, the likeliest token each time."""
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    model.generation_config.eos_token_id = None
    out = []
    for prompt in prompts:
        ids = torch.tensor([list(prompt)])
        full = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=new_tokens, do_sample=False, **options
        )
        out.append(full[0, len(prompt) :].tolist())
    return out
