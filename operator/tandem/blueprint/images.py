"""Image encoders with their projection into the language model, as data: each row says where its numbers are and how
many values it has. Tests compare every row with the models of the transformers library."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from tandem.blueprint.reader import Key, Number, Reader, Switch, key
from tandem.blueprint.structure import Vision
from tandem.blueprint.structure import VisionKind as Kind

_MERGED = key("spatial_merge_size", default=2)


@dataclass(frozen=True, slots=True)
class _Parts:
    """What the counts of an encoder are made of: its own part of config.json, the whole, and the text's width."""

    own: Reader
    top: Reader
    vision: Vision
    text: int

    def patches(self) -> int:
        """Values of the convolution that makes patches."""
        return self.vision.hidden * self.vision.channels * self.vision.patch_size**2

    def projection(self, *, bias: bool) -> int:
        """Two layers into the language model, from one layer of the encoder or several."""
        given = self.top.config.get("vision_feature_layer")
        layers = len(given) if isinstance(given, list) and given else 1
        has_bias = self.top.flag(Switch("multimodal_projector_bias", bias))
        return layers * self.vision.hidden * self.text + self.text * self.text + (2 * self.text if has_bias else 0)


def _clip(parts: _Parts) -> int:
    width, inner = parts.vision.hidden, parts.vision.inner
    positions = (parts.own.number(key("image_size", default=224)) // parts.vision.patch_size) ** 2 + 1
    layer = 4 * (width * width + width) + 2 * width * inner + inner + width + 4 * width
    around = width + positions * width + 4 * width  # class, positions, norms before and behind
    return parts.patches() + around + parts.vision.layers * layer


def _llava(parts: _Parts) -> int:
    return _clip(parts) + parts.projection(bias=True)


def _llava_next(parts: _Parts) -> int:
    return _llava(parts) + parts.text  # the end of a line


def _pixtral(parts: _Parts) -> int:
    width, inner = parts.vision.hidden, parts.vision.inner
    layer = 4 * width * width + 3 * width * inner + 2 * width
    merged = width + parts.top.number(_MERGED) ** 2 * width * width
    return parts.patches() + width + parts.vision.layers * layer + merged + parts.projection(bias=False)


def _merger(parts: _Parts, norm: int, out: int) -> int:
    """The end of Qwen's encoders: neighbouring patches become one."""
    width = parts.own.number(_MERGED) ** 2 * parts.vision.hidden
    return norm + width * width + width + width * out + out


def _frames(parts: _Parts) -> int:
    return parts.patches() * parts.own.number(key("temporal_patch_size", default=2))


def _qwen2(parts: _Parts) -> int:
    width = parts.vision.hidden
    inner = width * parts.own.number(key("mlp_ratio", default=4))
    layer = 4 * (width * width + width) + 2 * width * inner + inner + width + 4 * width
    out = parts.own.number(key("hidden_size", default=parts.text))
    return _frames(parts) + parts.vision.layers * layer + _merger(parts, 2 * width, out)


def _qwen2_5(parts: _Parts) -> int:
    width, inner = parts.vision.hidden, parts.vision.inner
    layer = 4 * (width * width + width) + 3 * width * inner + 2 * inner + width + 2 * width
    out = parts.own.number(key("out_hidden_size", default=3584))
    return _frames(parts) + parts.vision.layers * layer + _merger(parts, width, out)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Encoder:
    """A row: `names` are the types that its part of config.json may name, `needed` what it must say to be counted."""

    kind: Kind
    names: tuple[str, ...]
    hidden: Key
    layers: Key
    channels: Key
    count: Callable[[_Parts], int]

    def is_said(self, own: Reader) -> bool:
        """Whether its part of config.json has what no default is sure for."""
        named = own.config.get("model_type", self.names[0])
        dimensions = (*self.hidden.names[:1], *self.layers.names[:1], "patch_size")
        return named in self.names and all(own.config.get(name) is not None for name in dimensions)


_USUAL: Mapping[str, Key] = {
    "hidden": key("hidden_size"),
    "layers": key("num_hidden_layers"),
    "channels": key("num_channels", default=3),
}
_QWEN: Mapping[str, Key] = {"layers": key("depth"), "channels": key("in_channels", "in_chans", default=3)}
_ENCODERS: Mapping[str, _Encoder] = {
    "llava": _Encoder(kind="clip", names=("clip_vision_model",), count=_llava, **_USUAL),
    "llava_next": _Encoder(kind="clip", names=("clip_vision_model",), count=_llava_next, **_USUAL),
    "mistral3": _Encoder(kind="pixtral", names=("pixtral",), count=_pixtral, **_USUAL),
    "qwen2_vl": _Encoder(
        kind="qwen2_vl", names=("qwen2_vl", "qwen2_vl_vision"), count=_qwen2, hidden=key("embed_dim"), **_QWEN
    ),
    "qwen2_5_vl": _Encoder(
        kind="qwen2_5_vl",
        names=("qwen2_5_vl", "qwen2_5_vl_vision"),
        count=_qwen2_5,
        hidden=key("hidden_size"),
        **_QWEN,
    ),
}


def vision_of(kind: str, top: Reader, text_hidden: Number, text: Reader) -> Vision | None:
    """The image encoder of a model of type `kind`; None where it has none, or one that is not counted."""
    own = top.part("vision_config")
    if kind == "gemma3":
        return _siglip(own)
    row = _ENCODERS.get(kind)
    if row is None or not row.is_said(own):
        return None
    vision = Vision(
        kind=row.kind,
        hidden=own.number(row.hidden),
        inner=own.number(key("intermediate_size", default=4 * own.number(row.hidden))),
        layers=own.number(row.layers),
        channels=own.number(row.channels),
        image_size=own.optional(key("image_size", default=None)),
        patch_size=own.number(key("patch_size")),
    )
    return replace(vision, values=row.count(_Parts(own, top, vision, text.number(text_hidden))))


def _siglip(own: Reader) -> Vision:
    return Vision(
        hidden=own.number(key("hidden_size", default=768)),
        inner=own.number(key("intermediate_size", default=3072)),
        layers=own.number(key("num_hidden_layers", default=12)),
        channels=own.number(key("num_channels", default=3)),
        image_size=own.number(key("image_size", default=224)),
        patch_size=own.number(key("patch_size", default=16)),
    )
