"""The files of a designed model: its config.json, its numbers, its code. Pure; always the same bytes."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from itertools import pairwise

import yaml

from tandem.api.resources import BlueprintDesign
from tandem.blueprint.codegen import code, documents
from tandem.blueprint.config import from_config
from tandem.blueprint.design import design_config, from_design
from tandem.blueprint.model import Blueprint
from tandem.blueprint.parts import Weight

ARCHITECTURE, CONFIG, NUMBERS = "architecture.yaml", "config.json", "params_estimate.json"
GRAPH, ABLATIONS = "graph.json", "ablations.yaml"
_NOTES = (
    "Counts are exact: those of the model that config.json describes.",
    "activation: one prefill of the longest sequence, logits of its last token; KV cache: of that sequence.",
)


def artefacts(design: BlueprintDesign) -> Mapping[str, str]:
    """File name → text; raises `Refused` for a design that cannot be built."""
    blueprint, config = from_design(design), design_config(design)
    return {
        CONFIG: _json(config),
        ARCHITECTURE: yaml.safe_dump(_architecture(blueprint), sort_keys=False),
        GRAPH: _json(_graph(blueprint)),
        NUMBERS: _json(_numbers(blueprint)),
        ABLATIONS: yaml.safe_dump(_ablations(blueprint, config), sort_keys=False),
        **code(blueprint),
        **documents(blueprint),
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
        "digest": blueprint.digest,
        "total_params": blueprint.total_params,
        "trainable_params": blueprint.trainable_params,
        "activation_memory_gb": summary["activation_memory_gb"],
        "kv_cache_gb": summary["kv_cache_gb"],
        "activation_bytes": blueprint.activation_bytes,
        "kv_cache_bytes": blueprint.kv_cache_bytes,
        "weight_bytes": blueprint.weight_bytes,
        "notes": list(_NOTES),
    }


def _graph(blueprint: Blueprint) -> dict[str, object]:
    """What follows what, each with its parameters, which add up to those of the model."""
    structure = blueprint.structure
    if structure is None:
        return {"digest": blueprint.digest, "nodes": [], "edges": []}
    nodes = [_node("embedding", "embedding", structure.embedding())]
    each = (run.layer for run in structure.runs for _ in range(run.count))
    nodes += [_node(f"layers.{index}", "layer", layer.weights(structure.hidden)) for index, layer in enumerate(each)]
    nodes.append(_node("head", "head", structure.head()))
    edges = [[one["id"], other["id"]] for one, other in pairwise(nodes)]
    return {"digest": blueprint.digest, "nodes": nodes, "edges": edges}


def _node(name: str, kind: str, weights: Iterable[Weight]) -> dict[str, object]:
    return {"id": name, "kind": kind, "parameters": sum(weight.values for weight in weights)}


def _ablations(blueprint: Blueprint, config: Mapping[str, object]) -> dict[str, object]:
    """Variants of the model that are worth trying, each with its exact numbers."""
    dims = blueprint.dims
    if dims is None or dims.heads is None:
        return {"digest": blueprint.digest, "ablations": []}
    changes: Mapping[str, dict[str, object]] = {
        "half the layers": {"num_hidden_layers": max(1, dims.layers // 2)},
        "a quarter of the KV heads": {"num_key_value_heads": max(1, dims.heads // 4)},
        "one KV head": {"num_key_value_heads": 1},
        "half the feed-forward width": {"intermediate_size": max(1, (dims.intermediate_size or 1) // 2)},
        "embedding and head are one": {"tie_word_embeddings": True},
    }
    variants = [_variant(name, change, from_config({**config, **change})) for name, change in changes.items()]
    return {"digest": blueprint.digest, "base": _sizes(blueprint), "ablations": variants}


def _variant(name: str, change: Mapping[str, object], blueprint: Blueprint) -> dict[str, object]:
    return {"name": name, "change": dict(change), **_sizes(blueprint)}


def _sizes(blueprint: Blueprint) -> dict[str, object]:
    names = ("total_params", "weight_bytes", "kv_bytes_per_token")
    return {name: getattr(blueprint, name) for name in names}


def _json(value: object) -> str:
    return json.dumps(value, indent=2) + "\n"
