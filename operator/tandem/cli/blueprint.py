"""`tandem blueprint`: what a model is, from its config.json alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from tandem.api.load import load
from tandem.api.problems import refuse
from tandem.api.resources import BlueprintDesign, ModelBlueprint
from tandem.blueprint.card import ASSUMED, bytes_per_format, shown_name
from tandem.blueprint.counts import sequence_bytes
from tandem.blueprint.document import fingerprint, to_dict
from tandem.blueprint.fits import Room, judge, shown
from tandem.blueprint.formats import PLAIN_BYTES
from tandem.blueprint.gpus import GPUS, SPEEDS, gpu_name
from tandem.blueprint.memory import Load
from tandem.blueprint.model import Blueprint
from tandem.blueprint.roofline import bounds
from tandem.blueprint.split import tensor_parallel
from tandem.cli.files import write_files
from tandem.cli.model_files import read_blueprint
from tandem.cli.speeds import told

_SIZES = (1, 2, 4, 8, 16)
_CARD_FORMATS = ("bfloat16", "fp8", "nvfp4", "awq", "gguf-q4_k")


@click.group(
    "blueprint",
    short_help="Show what a model is, and what it needs, before it is deployed.",
    epilog="Example: tandem blueprint show ./models/qwen",
)
def command() -> None:
    """Shows what a model is, from its config.json: dimensions, exact counts, bytes, and what it fits on."""


@command.command(
    "show",
    short_help="Print a model's card.",
    epilog="Example: tandem blueprint show ./models/qwen --batch 8 --length 8192",
)
@click.argument("model", metavar="PATH|FILE|REPO")
@click.option("--revision", default="main", show_default=True, help="Revision of a repository.")
@click.option("--batch", type=click.IntRange(1, 1_048_576), default=1, show_default=True, help="Sequences at once.")
@click.option(
    "--length", type=click.IntRange(1, 134_217_728), help="Tokens of each; default: the longest, at most 8192."
)
@click.option("--gpu", metavar="NAME", help="Say what this GPU does at the very most, such as H100-80GB.")
@click.option("--gpus", type=click.IntRange(1, 64), default=1, show_default=True, help="How many share the model.")
@click.option("--plot", type=click.Path(path_type=Path), metavar="FILE.png", help="Draw memory over batch and length.")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def show(
    *,
    model: str,
    revision: str,
    batch: int,
    length: int | None,
    gpu: str | None,
    gpus: int,
    plot: Path | None,
    output: str,
) -> None:
    """Prints dimensions, parameter counts, bytes of weights per number format, KV cache, and which GPUs it fits on.

    PATH is a directory with a config.json (and the index of its safetensors files, whose bytes are then taken), FILE a
    config.json, a blueprint written with -o json, or one that declares its numbers (- for stdin), REPO a repository of
    the hub.
    Nothing is allocated, and only REPO needs the network. With --gpu, also bounds of its speed: no engine is faster,
    and real ones are slower.
    """
    if gpus > 1 and gpu is None and plot is None:
        raise click.UsageError("--gpus says how many share the model: give --gpu, or --plot, too.")
    gpu = None if gpu is None else gpu_name(gpu)
    blueprint = read_blueprint(model, revision=revision)
    longest = blueprint.max_seq_len
    if length is not None and longest is not None and length > longest:
        reason = f"the model takes sequences of at most {longest:,} tokens"
        raise refuse("--length", length, reason, f"Give at most {longest}.")
    load = _load(blueprint, batch, length)
    if plot is not None:
        from tandem.cli.plot import draw

        draw(plot, blueprint, load, gpu=gpu, gpus=gpus)
    on = None if gpu is None else (gpu, gpus)
    if output == "json":
        click.echo(json.dumps(_document(blueprint, load, on), indent=2))
    else:
        click.echo("\n".join((*_card(blueprint, load), *_bounds_lines(blueprint, load, on))))


@command.command(
    "synth",
    short_help="Write the files of a designed model.",
    epilog="Example: tandem blueprint synth spec.yaml -o out --seed 42",
)
@click.argument("spec", metavar="FILE", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="DIR", required=True, help="Where to write.")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), help="Seed; default: the design's. Changes no dimension.")
@click.option("--force", is_flag=True, help="Replace files that are there.")
def synth(*, spec: Path, output: Path, seed: int | None, force: bool) -> None:
    """Writes the model that the ModelBlueprint in FILE (with spec.design) describes, and prints the names of files:
    config.json, architecture.yaml, graph.json, params_estimate.json and ablations.yaml; network/, its code in torch;
    MODEL_CARD.md and DEPLOYMENT.md. The same file gives the same bytes. Files that are there stay, without --force.
    """
    from tandem.blueprint.synthesis import artefacts

    write_files(output, artefacts(_design(spec, seed)), replace=force)


def _design(path: Path, seed: int | None) -> BlueprintDesign:
    found = [each.resource.spec for each in load(path) if isinstance(each.resource, ModelBlueprint)]
    design = found[0].design if len(found) == 1 else None
    if design is None:
        fix = "Give a file with one, whose spec has design."
        raise refuse(str(path), None, "the file holds no single ModelBlueprint with a design", fix)
    return design if seed is None else design.model_copy(update={"seed": seed})


def _load(blueprint: Blueprint, batch: int, length: int | None) -> Load:
    size = PLAIN_BYTES.get(blueprint.dtype or "", 2)
    tokens = length or min(blueprint.max_seq_len or 8192, 8192)
    return Load(batch=batch, length=tokens, step=min(8192, batch * tokens), kv_bytes=size, value_bytes=size)


def _document(blueprint: Blueprint, load: Load, on: tuple[str, int] | None) -> dict[str, Any]:
    asked = {"batch": load.batch, "length": load.length}
    sizing: dict[str, Any] = {
        "bytes_per_format": bytes_per_format(blueprint),
        "asked": asked,
        "gpus": _gpus(blueprint, load),
    }
    if on is not None:
        found = bounds(blueprint, load, SPEEDS[on[0]], gpus=on[1])
        sizing["bounds"] = {"gpu": on[0], "gpus": on[1], **(asdict(found) if found else {})}
    return {**to_dict(blueprint), "fingerprint": fingerprint(blueprint), "sizing": sizing}


def _gpus(blueprint: Blueprint, load: Load) -> dict[str, int | None]:
    """For each GPU the least number that the model fits on by tensor parallelism, None when none of the usual does."""

    def fits(memory: int, size: int) -> bool:
        return judge(blueprint, load, tensor_parallel(size), Room(memory=memory)).fits

    return {name: next((size for size in _SIZES if fits(memory, size)), None) for name, memory in GPUS.items()}


def _card(blueprint: Blueprint, load: Load) -> Iterator[str]:
    yield f"{shown_name(blueprint)}  {blueprint.digest[:12]}"
    yield from (_line(name, text) for name, text in _facts(blueprint, load) if text)
    counts: dict[int, list[str]] = {}
    for name, count in _gpus(blueprint, load).items():
        if count is not None:
            counts.setdefault(count, []).append(name)
    sequences = "one sequence" if load.batch == 1 else f"{load.batch:,} sequences"
    what = f"with {sequences} of {load.length:,} tokens"
    yield _line("fits on", f"{what}:" if counts else f"none of the known GPUs, {what}")
    yield from (_line("", f"{count} × {', '.join(counts[count])}") for count in sorted(counts))


def _bounds_lines(blueprint: Blueprint, load: Load, on: tuple[str, int] | None) -> Iterator[str]:
    if on is None:
        return
    gpu, gpus = on
    yield _line(f"{gpus} × {gpu}", str(judge(blueprint, load, tensor_parallel(gpus), Room(memory=GPUS[gpu]))))
    lines = told(bounds(blueprint, load, SPEEDS[gpu], gpus=gpus), length=load.length)
    yield from (_line("" if index else "bounds", line) for index, line in enumerate(lines))


def _facts(blueprint: Blueprint, load: Load) -> Iterator[tuple[str, str]]:
    dims = blueprint.dims
    if dims is not None:
        heads = f", {dims.heads} heads × {dims.head_dim}" if dims.heads else ""
        kv = (
            f" ({dims.kv_heads} KV)" if dims.kv_heads else f" (latent {dims.kv_lora_rank})" if dims.kv_lora_rank else ""
        )
        yield "layers", f"{dims.layers}, hidden {dims.hidden_size}{heads}{kv}"
        if dims.experts:
            used = f"{dims.experts_per_token} per token × {dims.expert_intermediate_size}"
            yield "experts", f"{dims.experts}, {used}"
        yield "window", f"{dims.window} tokens in some layers" if dims.window else ""
    yield "vocabulary", f"{blueprint.vocab_size:,}" if blueprint.vocab_size else ""
    yield "longest", f"{blueprint.max_seq_len:,} tokens" if blueprint.max_seq_len else ""
    yield "parameters", _parameters(blueprint)
    yield "", f"without its other parts ({', '.join(blueprint.uncounted)})" if blueprint.uncounted else ""
    yield "weights", _weights(blueprint)
    others = bytes_per_format(blueprint)
    yield "as", ", ".join(f"{name} {shown(others[name])}" for name in _CARD_FORMATS if name in others)
    if blueprint.kv_bytes_per_token is not None:
        less = f", less beyond {dims.window:,}" if dims is not None and dims.window else ""
        thousand = shown(1000 * blueprint.kv_bytes_per_token)
        yield "KV cache", f"{blueprint.kv_bytes_per_token:,} bytes per token, {thousand} per 1,000 tokens{less}"
    if blueprint.structure is not None:
        one = sequence_bytes(blueprint.structure, load.length, load.kv_bytes, block=load.block)
        name = "" if blueprint.kv_bytes_per_token else "KV cache"
        yield name, f"{shown(one)} for one sequence of {load.length:,} tokens"


def _parameters(blueprint: Blueprint) -> str:
    if blueprint.total_params is None:
        return ""
    active = blueprint.active_params
    used = f", {active:,} per token" if active is not None and active != blueprint.total_params else ""
    return f"{blueprint.total_params:,}{used}"


def _weights(blueprint: Blueprint) -> str:
    if blueprint.weight_bytes is None:
        return f"the config names no number type: {ASSUMED} is assumed below" if blueprint.structure else ""
    form = blueprint.quantisation.method if blueprint.quantisation else blueprint.dtype
    origin = {"config": "", "index": ", from the files", "declared": ", declared"}[blueprint.weights_from]
    return f"{blueprint.weight_bytes:,} bytes ({shown(blueprint.weight_bytes)}) as {form or 'they are'}{origin}"


def _line(name: str, text: str) -> str:
    return f"  {name:<16}{text}"
