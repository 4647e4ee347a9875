"""The files of a designed model: its config.json, its architecture, its numbers. Pure; always the same bytes."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping

import yaml

from tandem.api.resources import BlueprintDesign
from tandem.blueprint.design import design_config, from_design
from tandem.blueprint.model import Blueprint

ARCHITECTURE, CONFIG, NUMBERS = "architecture.yaml", "config.json", "params_estimate.json"
_NOTES = (
    "Counts are exact: those of the model that config.json describes.",
    "activation: one prefill of the longest sequence, logits of its last token; KV cache: of that sequence.",
)


def artefacts(design: BlueprintDesign) -> Mapping[str, str]:
    """File name → text; raises `Refused` for a design that cannot be built."""
    blueprint = from_design(design)
    return {
        CONFIG: _json(design_config(design)),
        ARCHITECTURE: yaml.safe_dump(_architecture(blueprint), sort_keys=False),
        NUMBERS: _json(_numbers(blueprint)),
    }


def _architecture(blueprint: Blueprint) -> dict[str, object]:
    dims = dataclasses.asdict(blueprint.dims) if blueprint.dims else {}
    names = ("vocab_size", "max_seq_len", "num_channels", "image_size", "patch_size", "sample_rate", "latent_dim")
    others = {name: getattr(blueprint, name) for name in names}
    return {
        "family": blueprint.family,
        "digest": blueprint.digest,
        "seed": blueprint.seed,
        "dims": {name: value for name, value in dims.items() if value is not None},
        **{name: value for name, value in others.items() if value is not None},
        "components": list(blueprint.components),
    }


def _numbers(blueprint: Blueprint) -> dict[str, object]:
    summary = blueprint.summary()
    return {
        "total_params": blueprint.total_params,
        "trainable_params": blueprint.trainable_params,
        "activation_memory_gb": summary["activation_memory_gb"],
        "kv_cache_gb": summary["kv_cache_gb"],
        "activation_bytes": blueprint.activation_bytes,
        "kv_cache_bytes": blueprint.kv_cache_bytes,
        "weight_bytes": blueprint.weight_bytes,
        "notes": list(_NOTES),
    }


def _json(value: object) -> str:
    return json.dumps(value, indent=2) + "\n"
