"""Peak memory of what layers compute, beside weights and KV cache."""

from __future__ import annotations

from tandem.blueprint.parts import Attention, Experts, Feed, Latent, Mixer
from tandem.blueprint.structure import Structure


def activation_bytes_per_token(structure: Structure, size: int, *, across: int = 1) -> int:
    """Bytes at the peak of one prefill, per token that is computed at once, with `size` bytes per value.

    `size`·(4H + 3I) + 4d + 8, measured on Llama-3.1-8B, Qwen2.5-1.5B, Qwen3-32B and Mistral-7B in torch; layers run
    one after the other, so their number does not matter. For experts and state space layers it is an estimate: I is
    the width that one token uses.
    """
    widths = (run.layer for run in structure.kinds())
    inner = heads = 0
    for layer in widths:
        inner = max(inner, _inner(layer.feed, across))
        heads = max(heads, _head_dim(layer.mixer))
    return size * (4 * structure.hidden + inner) + 4 * heads + 8


def logits_bytes(structure: Structure, tokens: int, size: int, *, across: int = 1) -> int:
    """Bytes of the logits of `tokens` tokens and of the states that they are made from."""
    return tokens * size * (-(-structure.vocab // across) + structure.hidden)


def _inner(feed: Feed | None, across: int) -> int:
    if feed is None:
        return 0
    matrices = 3 if feed.gated else 2
    width = feed.inner
    if isinstance(feed, Experts):
        width = feed.per_token * feed.inner + (feed.shared.inner if feed.shared else 0)
    return matrices * -(-width // across)


def _head_dim(mixer: Mixer | None) -> int:
    if isinstance(mixer, Attention):
        return mixer.head_dim
    if isinstance(mixer, Latent):
        return mixer.nope_dim + mixer.rope_dim
    return 0
