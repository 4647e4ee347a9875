"""Code and documents of a model, from its blueprint alone: templates beside this file. Pure; always the same bytes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from importlib.resources import files

from jinja2 import StrictUndefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tandem.api.problems import refuse
from tandem.blueprint.card import bytes_per_format
from tandem.blueprint.fits import shown
from tandem.blueprint.model import Blueprint
from tandem.blueprint.parts import Attention, Mlp
from tandem.blueprint.structure import Layer, Run, Structure

PACKAGE = "network"
_CODE = ("__init__.py", "model.py", "layers.py", "data.py", "train.py", "eval.py")
_ARCHITECTURES = frozenset(("llama", "mistral"))
_DOCUMENTS = ("MODEL_CARD.md", "DEPLOYMENT.md")
_NOT_IN_A_DOCUMENT = re.compile(r"[^\w .,:/()-]+", re.ASCII)
_LONGEST_NAME = 80
_DTYPE = "float32"
_FORM = (
    "decoders of Llama's form: attention without biases, norms of heads and windows, a gated feed-forward network, "
    "two norms in each layer"
)


def code(blueprint: Blueprint) -> Mapping[str, str]:
    """File name → text of a Python package that is the model; raises `Refused` for one of another form than Llama's."""
    if (reason := _not_llama(blueprint)) is not None:
        raise refuse("architecture", blueprint.architecture, reason, f"Code is made for {_FORM}.")
    whole = replace(blueprint, dtype=blueprint.dtype or _DTYPE)
    return {f"{PACKAGE}/{name}": _rendered(name, whole, _as_python) for name in _CODE}


def documents(blueprint: Blueprint) -> Mapping[str, str]:
    """File name → text of the model's card and of how it is served."""
    return {name: _rendered(name, blueprint, _as_text) for name in _DOCUMENTS}


def _rendered(name: str, blueprint: Blueprint, finalize: Callable[[object], str]) -> str:
    return _environment(finalize).from_string(template(name)).render(blueprint=blueprint)


def template(name: str) -> str:
    """The template of a file."""
    return (files("tandem.blueprint") / "templates" / f"{name}.j2").read_text(encoding="utf-8")


@cache
def _environment(finalize: Callable[[object], str]) -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        undefined=StrictUndefined, finalize=finalize, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.globals.clear()
    environment.filters = {"shown": shown, "formats": bytes_per_format, "plain": str}
    return environment


def _as_python(value: object) -> str:
    """A literal: whatever a text holds, it stays one."""
    return repr(value) if isinstance(value, int | float) else json.dumps(value)


def _as_text(value: object) -> str:
    """Numbers with separators; of a text only what is no markup."""
    if isinstance(value, int):
        return f"{value:,}"
    return _NOT_IN_A_DOCUMENT.sub("_", str(value))[:_LONGEST_NAME]


def _not_llama(blueprint: Blueprint) -> str | None:
    """Why there is no code for a model; None when there is."""
    structure, dims = blueprint.structure, blueprint.dims
    if structure is None or dims is None or blueprint.max_seq_len is None:
        return "its layers and its longest sequence are not known"
    if not (dims.heads and dims.kv_heads and dims.head_dim and dims.intermediate_size):
        return "its layers are of another form"
    attention = Attention(heads=dims.heads, kv_heads=dims.kv_heads, head_dim=dims.head_dim)
    layer = Layer(mixer=attention, feed=Mlp(inner=dims.intermediate_size), norms=2)
    runs = (Run(dims.layers, layer),)
    form = Structure(hidden=structure.hidden, vocab=structure.vocab, tied=structure.tied, runs=runs)
    if blueprint.architecture not in _ARCHITECTURES or structure != form:
        return "its layers are of another form"
    if dims.heads % dims.kv_heads or dims.head_dim % 2:
        return "its heads cannot share its KV heads, or are of odd size"
    return None
