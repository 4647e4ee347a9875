"""From a config.json to a blueprint; pure. Everything that is wrong is told at once, each with its key."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from difflib import get_close_matches

from tandem.api.problems import refuse
from tandem.blueprint import counts as sizes
from tandem.blueprint.activation import activation_bytes_per_token
from tandem.blueprint.families import FAMILIES
from tandem.blueprint.family import Family
from tandem.blueprint.formats import PLAIN_BYTES, plain
from tandem.blueprint.images import vision_of
from tandem.blueprint.index import Index
from tandem.blueprint.layers import layers_of, runs_of
from tandem.blueprint.model import Blueprint, Dims
from tandem.blueprint.parts import Attention, Latent, Mlp
from tandem.blueprint.quantisation import Quantisation, mark_plain, read_quantisation
from tandem.blueprint.reader import Reader
from tandem.blueprint.structure import Structure, Vision

# Models of several parts, and the type of their language model when it names none.
_WRAPPERS: Mapping[str, str] = {
    "aya_vision": "cohere2",
    "gemma3": "gemma3_text",
    "idefics3": "llama",
    "internvl": "qwen2",
    "kimi_k25": "deepseek_v3",
    "llama4": "llama4_text",
    "llava": "llama",
    "llava_next": "llama",
    "mistral3": "mistral",
    "qwen2_5_vl": "qwen2_5_vl_text",
    "qwen2_vl": "qwen2_vl_text",
    "qwen3_vl": "qwen3_vl_text",
    "qwen3_vl_moe": "qwen3_vl_moe_text",
    "smolvlm": "llama",
}
# Parts that are no language model; of these, the image encoders in images.py are counted.
_OTHER_PARTS = ("vision_config", "audio_config")
_TIED = "tie_word_embeddings"
# The language models that have a head of their own; that of others is the whole model's.
_OWN_HEAD = frozenset(("llama4",))
MAX_PARAMETERS = 2**50
DECLARE = (
    'or declare what you know of it in a file of its own: {"schema_version": 1, "architecture": "…", '
    '"total_params": …, "weight_bytes": …, "kv_bytes_per_token": …, "max_seq_len": …}'
)


def from_config(config: Mapping[str, object], *, place: str = "", index: Index | None = None) -> Blueprint:
    """The blueprint of a parsed config.json; raises `Refused` with every value that is missing or cannot be.

    `place` stands before each key in messages. With `index`, the bytes of weights are those that it tells.
    """
    top = Reader(config, place)
    kind = config.get("model_type")
    if not isinstance(kind, str):
        fix = "Give a model's config.json."
        raise refuse(f"{place}model_type", kind, "config.json names no model type", fix)
    text, text_kind = _parts(top, kind)
    family = FAMILIES.get(text_kind)
    if family is None:
        reason = "the layers of this architecture are not known here"
        where = text if "model_type" in text.config else top
        raise refuse(f"{where.place}model_type", where.config["model_type"], reason, _fix(text_kind))
    vision = vision_of(kind, top, family.hidden, text)
    dtype = _dtype(top, text)
    quantisation, kept = read_quantisation(top)
    tied_by = top if _TIED in top.config and kind not in _OWN_HEAD else text
    structure = _structure(text, family, kept, vision, tied_by=tied_by)
    max_seq_len = text.optional(family.length)
    top.check()
    _check_size(structure, max_seq_len or 1, place)
    if index is not None:
        _check_index(structure, index)
    return _blueprint(
        structure,
        digest=digest(config, index),
        architecture=kind,
        max_seq_len=max_seq_len,
        dtype=dtype,
        quantisation=quantisation,
        index=index,
        vision=vision,
        uncounted=_uncounted(top, vision),
    )


def digest(config: Mapping[str, object], index: Index | None = None) -> str:
    """SHA-256 of the content, whatever the order of its keys."""
    text = json.dumps(config, sort_keys=True, separators=(",", ":"))
    found = hashlib.sha256(text.encode())
    if index is not None:
        found.update(f"\n{index.total_bytes}".encode())
    return found.hexdigest()


def _check_size(structure: Structure, length: int, place: str) -> None:
    """Every number that follows must fit into 63 bits, as the API server and other programs have no larger ones."""
    if sizes.counts(structure).total > MAX_PARAMETERS:
        reason = f"with these dimensions the model would have more than {MAX_PARAMETERS} parameters"
        raise refuse(f"{place}hidden_size", structure.hidden, reason, "Correct config.json.")
    if length * activation_bytes_per_token(structure, 8) + sizes.sequence_bytes(structure, length, 8) >= 2**62:
        reason = "a sequence of this length would take more bytes than can be counted"
        raise refuse(f"{place}max_position_embeddings", length, reason, "Correct config.json.")


def _check_index(structure: Structure, index: Index) -> None:
    """No number format takes less than 2 bits or more than 16 bytes for a number."""
    numbers = sizes.counts(structure).total
    if not numbers // 4 <= index.total_bytes <= 16 * numbers:
        reason = f"the model that config.json describes has {numbers} numbers, which cannot take this many bytes"
        fix = "Give the index and the config.json of the same model."
        raise refuse(index.place, index.total_bytes, reason, fix)


def _parts(top: Reader, kind: str) -> tuple[Reader, str]:
    usual = _WRAPPERS.get(kind)
    if usual is None:
        return top, kind
    if "text_config" not in top.config and "hidden_size" in top.config:
        return top, usual  # older configurations of Qwen-VL
    text = top.part("text_config")
    given = text.config.get("model_type", usual)
    if not isinstance(given, str):
        text.refuse("model_type", given, "a text is needed here")
    return text, str(given)


def _uncounted(top: Reader, vision: Vision | None) -> tuple[str, ...]:
    found = (name for name in _OTHER_PARTS if top.config.get(name) is not None)
    return tuple(name.removesuffix("_config") for name in found if vision is None or name != "vision_config")


def _structure(
    text: Reader, family: Family, kept: tuple[str, ...], vision: Vision | None, *, tied_by: Reader
) -> Structure:
    hidden = text.number(family.hidden)
    layers = layers_of(text, family)
    # Only layers that are right are worth comparing with patterns.
    layers = layers if text.problems else mark_plain(layers, kept, hidden)
    return Structure(
        hidden=hidden,
        vocab=text.number(family.vocab),
        tied=tied_by.flag(family.tied),
        runs=runs_of(layers),
        head_bias=family.head_bias,
        positions=(text.optional(family.length) or 0) if family.learned_positions else 0,
        final_norms=family.final_norms,
        vision=vision,
        nextn=text.optional(family.nextn) or 0,
    )


def _dtype(top: Reader, text: Reader) -> str | None:
    for reader in (top, text):
        for name in ("dtype", "torch_dtype"):
            value = reader.config.get(name)
            if value is None:
                continue
            if isinstance(value, str) and value.removeprefix("torch.") in PLAIN_BYTES:
                return value.removeprefix("torch.")
            reader.refuse(name, value, f"a number format is one of {', '.join(PLAIN_BYTES)}")
            return None
    return None


def _blueprint(
    structure: Structure,
    *,
    digest: str,
    architecture: str,
    max_seq_len: int | None,
    dtype: str | None,
    quantisation: Quantisation | None,
    index: Index | None,
    vision: Vision | None,
    uncounted: tuple[str, ...],
) -> Blueprint:
    counted = sizes.counts(structure)
    size = PLAIN_BYTES[dtype] if dtype else None
    stored = None
    if dtype is not None:
        stored = sizes.weight_bytes(structure, plain(dtype), quantisation.format if quantisation else None)
    return Blueprint(
        digest=digest,
        max_seq_len=max_seq_len,
        total_params=counted.total,
        weight_bytes=stored if index is None else index.total_bytes,
        kv_bytes_per_token=None if size is None else sizes.kv_bytes_per_token(structure, size),
        is_moe=structure.experts() is not None,
        nextn=structure.nextn,
        architecture=architecture,
        dims=_dims(structure),
        vocab_size=structure.vocab,
        num_channels=vision.channels if vision else None,
        image_size=vision.image_size if vision else None,
        patch_size=vision.patch_size if vision else None,
        components=(*uncounted, *_components(structure)),
        uncounted=uncounted,
        trainable_params=counted.parameters,
        active_params=counted.active,
        buffers=counted.buffers,
        activation_bytes=max_seq_len * activation_bytes_per_token(structure, size) if size and max_seq_len else None,
        kv_cache_bytes=sizes.sequence_bytes(structure, max_seq_len, size) if size and max_seq_len else None,
        dtype=dtype,
        quantisation=quantisation,
        weights_from="config" if index is None else "index",
        structure=structure,
    )


def _dims(structure: Structure) -> Dims:
    layers = [run.layer for run in structure.runs]
    mixer = next((layer.mixer for layer in layers if isinstance(layer.mixer, Attention | Latent)), None)
    dense = next((layer.feed for layer in layers if isinstance(layer.feed, Mlp)), None)
    experts = structure.experts()
    windows = (layer.mixer.window for layer in layers if isinstance(layer.mixer, Attention))
    own = mixer if isinstance(mixer, Attention) else None
    latent = mixer if isinstance(mixer, Latent) else None
    return Dims(
        hidden_size=structure.hidden,
        layers=structure.layers,
        heads=mixer.heads if mixer else None,
        kv_heads=own.kv_heads if own else None,
        head_dim=own.head_dim if own else latent.nope_dim + latent.rope_dim if latent else None,
        intermediate_size=dense.inner if dense else None,
        experts=experts.count if experts else None,
        experts_per_token=experts.per_token if experts else None,
        expert_intermediate_size=experts.inner if experts else None,
        q_lora_rank=latent.q_rank if latent else None,
        kv_lora_rank=latent.kv_rank if latent else None,
        window=next((window for window in windows if window is not None), None),
    )


def _components(structure: Structure) -> tuple[str, ...]:
    kinds: dict[str, None] = {"vision": None} if structure.vision else {}
    for run in structure.runs:
        for part in (run.layer.mixer, run.layer.feed):
            if part is not None:
                kinds[part.kind] = None
    return ("embedding", *kinds, "head")


def _fix(kind: str) -> str:
    known = sorted((*FAMILIES, *_WRAPPERS))
    found = get_close_matches(kind[:64], known, 1, 0.8)
    near = f"Did you mean {found[0]}? " if found else ""
    return f"{near}Known are {', '.join(known)}; {DECLARE}."
