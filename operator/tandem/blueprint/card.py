"""What people ask of a blueprint first: bytes in each number format, and what kind of KV cache it has."""

from __future__ import annotations

from collections.abc import Mapping

from tandem.blueprint.counts import weight_bytes
from tandem.blueprint.formats import PLAIN_BYTES, Format, known, plain
from tandem.blueprint.model import Blueprint
from tandem.blueprint.parts import Attention, Latent
from tandem.blueprint.structure import Structure

ASSUMED = "bfloat16"
"""Where a config names no number type."""
_LONGEST_NAME = 60


def shown_name(blueprint: Blueprint) -> str:
    """The architecture for people: who declares a model may write anything."""
    name = blueprint.architecture[:_LONGEST_NAME] or "declared"
    return "".join(letter if letter.isprintable() else "?" for letter in name)


def bytes_per_format(blueprint: Blueprint) -> Mapping[str, int]:
    """Bytes of all weights in each format that is known; empty when the layers are not.

    A plain format is for everything, a quantised one for matrices in layers; one of GGUF for embeddings too, beside
    vectors in float32.
    """
    structure = blueprint.structure
    if structure is None:
        return {}
    number = plain(blueprint.dtype or ASSUMED)
    return {name: _bytes(structure, name, form, number) for name, form in known().items()}


def _bytes(structure: Structure, name: str, form: Format, number: Format) -> int:
    if name in PLAIN_BYTES:
        return weight_bytes(structure, form)
    if name.startswith("gguf-"):
        return weight_bytes(structure, plain("float32"), form, embedding=form)
    return weight_bytes(structure, number, form)


def kv_kind(structure: Structure) -> str:
    """`heads`, `latent`, `windows` (some layers look back some tokens only), `hybrid` (some keep a state), `state`."""
    mixers = [run.layer.mixer for run in structure.kinds() if run.layer.mixer is not None]
    attention = [mixer for mixer in mixers if isinstance(mixer, Attention | Latent)]
    if len(attention) < len(mixers):
        return "hybrid" if attention else "state"
    if any(isinstance(mixer, Latent) for mixer in attention):
        return "latent"
    windowed = any(isinstance(mixer, Attention) and mixer.window is not None for mixer in attention)
    return "windows" if windowed else "heads"
