"""The structure of a model: its layers in runs of equal ones, and what stands around them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from tandem.blueprint.parts import Experts, Feed, Mixer, Weight


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """What one layer has; `norms` is its number of norm vectors, each as wide as the model.

    `plain` are the names of modules that keep the model's number format although it is quantised.
    """

    mixer: Mixer | None
    feed: Feed | None
    norms: int
    plain: tuple[str, ...] = ()

    def weights(self, hidden: int) -> Iterator[Weight]:
        """Every weight of the layer."""
        if self.mixer is not None:
            yield from self.mixer.weights(hidden)
        if self.feed is not None:
            yield from self.feed.weights(hidden)
        if self.norms:
            yield Weight("norms", self.norms * hidden, 1, "other")


@dataclass(frozen=True, slots=True)
class Run:
    """`count` equal layers, one after the other."""

    count: int
    layer: Layer


VisionKind = Literal["siglip", "clip", "pixtral", "qwen2_vl", "qwen2_5_vl"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Vision:
    """An image encoder with its projection into the language model. `values` are those of both; without them they are
    those of SigLIP with one layer behind it."""

    kind: VisionKind = "siglip"
    hidden: int
    inner: int
    layers: int
    channels: int
    image_size: int | None
    patch_size: int
    values: int | None = None

    def weights(self, text_hidden: int) -> Iterator[Weight]:
        """Patches, positions, layers (attention and MLP with biases, two norms), last norm, projection."""
        yield Weight("vision_tower", self._siglip(text_hidden) if self.values is None else self.values, 1, "other")

    def _siglip(self, text_hidden: int) -> int:
        width, inner = self.hidden, self.inner
        patches = ((self.image_size or 0) // self.patch_size) ** 2
        layer = 4 * (width * width + width) + 2 * width * inner + inner + width + 4 * width
        embedding = width * (self.channels * self.patch_size**2 + 1 + patches)
        return embedding + self.layers * layer + 2 * width + width * text_hidden + width


@dataclass(frozen=True, slots=True, kw_only=True)
class Structure:
    """A decoder: embedding, runs of layers, last norm, output head, and what some models have beside these.

    `positions` are learned position embeddings. `nextn` are layers that predict further tokens: they are stored
    with the model and loaded only for speculative decoding.
    """

    hidden: int
    vocab: int
    tied: bool
    runs: tuple[Run, ...]
    head_bias: bool = False
    positions: int = 0
    final_norms: int = 1
    vision: Vision | None = None
    nextn: int = 0

    @property
    def layers(self) -> int:
        """How many layers there are."""
        return sum(run.count for run in self.runs)

    def kinds(self) -> tuple[Run, ...]:
        """The layers by kind, whatever their order; runs of one kind share one `Layer`, mostly."""
        # By identity: hashing a layer costs more than all that is worked out from it.
        found: dict[int, tuple[int, Layer]] = {}
        for run in self.runs:
            count, _ = found.get(id(run.layer), (0, run.layer))
            found[id(run.layer)] = count + run.count, run.layer
        return tuple(Run(count, layer) for count, layer in found.values())

    def embedding(self) -> Iterator[Weight]:
        """What stands before the layers."""
        yield Weight("embed_tokens", self.vocab, self.hidden, "embedding", cut="out", units=self.vocab)
        if self.positions:
            yield Weight("embed_positions", self.positions, self.hidden, "embedding")
        if self.vision is not None:
            yield from self.vision.weights(self.hidden)

    def head(self) -> Iterator[Weight]:
        """What stands behind the layers; a tied head has no weights of its own."""
        yield Weight("norm", self.final_norms * self.hidden, 1, "other")
        if not self.tied:
            yield Weight("lm_head", self.vocab, self.hidden, "embedding", cut="out", units=self.vocab)
        if self.head_bias:
            yield Weight("lm_head", self.vocab, 1, "embedding", cut="out", units=self.vocab)

    def weights(self) -> Iterator[tuple[int, Weight]]:
        """(how often, weight) of everything that is loaded to generate text."""
        yield from ((1, weight) for weight in self.embedding())
        for run in self.kinds():
            yield from ((run.count, weight) for weight in run.layer.weights(self.hidden))
        yield from ((1, weight) for weight in self.head())

    def further(self) -> Iterator[tuple[int, Weight]]:
        """(how often, weight) of what predicts further tokens, as it is stored: with its own embedding and head."""
        if not self.nextn:
            return
        hidden, last = self.hidden, self.runs[-1].layer
        yield self.nextn, Weight("eh_proj", hidden, 2 * hidden, "other")
        yield self.nextn, Weight("norms", 3 * hidden, 1, "other")
        yield 2 * self.nextn, Weight("embed_tokens", self.vocab, hidden, "embedding", cut="out", units=self.vocab)
        yield from ((self.nextn, weight) for weight in last.weights(hidden))

    def experts(self) -> Experts | None:
        """The first mixture of experts, None when the model has none."""
        feeds = (run.layer.feed for run in self.kinds())
        return next((feed for feed in feeds if isinstance(feed, Experts)), None)
