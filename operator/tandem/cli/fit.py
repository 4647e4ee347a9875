"""`tandem fit`: does each role of a deployment fit into the memory it asks for, with the numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import click
from pydantic.alias_generators import to_camel

from tandem.api.deployment import ModelDeployment
from tandem.api.problems import Refused, refuse
from tandem.blueprint.gpus import GPUS, SPEEDS, gpu_name
from tandem.blueprint.model import Blueprint
from tandem.blueprint.roofline import Bounds, bounds
from tandem.cli.app import EXIT_REFUSED
from tandem.cli.cluster import cluster_from, cluster_options
from tandem.cli.model_files import read_blueprint
from tandem.cli.source import deployments_in, file_option
from tandem.cli.speeds import told
from tandem.manifests import Build, build
from tandem.manifests.fitting import RoleFit, Unjudged, as_served, memory_bytes


@dataclass(frozen=True, slots=True)
class _Judged:
    """A role, what follows from the model for it, and how fast it can be at the very most on the GPU that was named."""

    deployment: str
    fit: RoleFit
    follows: Mapping[str, object]
    bounds: Bounds | None


@click.command(
    "fit",
    short_help="Say whether a deployment fits into memory, with the numbers; exit 1 when it does not.",
    epilog="Example: tandem fit -f deployment.yaml --blueprint ./models/qwen --gpu H100-80GB",
)
@file_option("File with one or more ModelDeployments")
@click.option("--gpu", metavar="NAME", help="GPU that the workers run on, such as H100-80GB.")
@click.option("--gpu-memory", metavar="QUANTITY", help="Memory of one GPU instead of a name: 80Gi.")
@click.option("--blueprint", metavar="PATH|FILE|REPO", help="The model; default: the repository of spec.model.hub.")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
@cluster_options
def command(
    *, file: Path, gpu: str | None, gpu_memory: str | None, blueprint: str | None, output: str, **cluster: Any
) -> None:
    """Judges each role of the file's ModelDeployments: needed and available bytes of the GPU that needs the most, by
    part, and single changes that would make it fit. Without a GPU, against the memory limit of the role. With --gpu,
    also bounds of the speed of a role that fits.

    The parameters are those of tandem explain, with what follows from the model and the GPU.
    """
    if gpu is not None and gpu_memory is not None:
        raise click.UsageError("--gpu and --gpu-memory say the same: give one of them.")
    gpu = None if gpu is None else gpu_name(gpu)
    size = GPUS[gpu] if gpu is not None else _memory(gpu_memory) if gpu_memory else None
    facts = cluster_from(**cluster)
    judged: list[_Judged] = []
    for deployment, source in deployments_in(file, facts.library):
        model = _model(deployment, blueprint)
        sizes: dict[str, int] = {} if size is None else dict.fromkeys(map(str, deployment.role_names()), size)
        with source.locating():
            built = build(deployment, blueprint=model, cluster=replace(facts, gpu_memory=sizes))
            _check_known(built.fits)
            judged += [_judged(deployment, fit, built, model, gpu) for fit in built.fits if isinstance(fit, RoleFit)]
    fits = all(each.fit.verdict.fits for each in judged)
    if output == "json":
        click.echo(json.dumps({"fits": fits, "roles": [*map(_document, judged)]}))
    else:
        click.echo("\n".join(line for each in judged for line in _lines(each)))
    if not fits:
        click.get_current_context().exit(EXIT_REFUSED)


def _model(deployment: ModelDeployment, given: str | None) -> Blueprint:
    hub = deployment.spec.model.hub
    if given is not None:
        return read_blueprint(given)
    if hub is not None:
        return read_blueprint(hub.repo, revision=hub.revision)
    fix = "Give --blueprint with the model's directory or config.json."
    raise refuse("--blueprint", None, "the model's files are not known from the deployment alone", fix)


def _memory(text: str) -> int:
    """Bytes of a GPU; raises `Refused`, also for a number that lacks its unit."""
    size = memory_bytes("--gpu-memory", text)
    if size < 2**20:
        raise refuse("--gpu-memory", text, "no GPU has so few bytes", "Write 80Gi.")
    return size


def _check_known(fits: Sequence[RoleFit | Unjudged]) -> None:
    """Raises `Refused` with every role whose memory is not known."""
    unknown = [fit.why for fit in fits if isinstance(fit, Unjudged)]
    if unknown:
        raise Refused(replace(why, fix=f"{why.fix.rstrip('.')}, or give --gpu or --gpu-memory.") for why in unknown)


def _judged(deployment: ModelDeployment, fit: RoleFit, built: Build, model: Blueprint, gpu: str | None) -> _Judged:
    values = [value for value in built.parameters if (value.role, value.source) == (fit.role, "blueprint")]
    follows = {to_camel(value.name): value.value for value in values}
    found = None
    if gpu is not None and fit.gpu:
        computed = as_served(deployment, fit.role, model, gpu=True)
        found = bounds(computed, fit.load, SPEEDS[gpu], gpus=fit.split.gpus)
    return _Judged(deployment.metadata.name, fit, follows, found)


def _document(judged: _Judged) -> dict[str, Any]:
    fit, verdict = judged.fit, judged.fit.verdict
    return {
        "deployment": judged.deployment,
        "role": fit.role,
        "fits": verdict.fits,
        "needed": verdict.needed,
        "available": verdict.available,
        "parts": asdict(verdict.parts),
        "asked": {
            "batch": fit.load.batch,
            "length": fit.load.length,
            "copies": fit.load.copies,
            "gpus": fit.split.gpus,
            "cache_tokens": fit.load.cache_tokens,
        },
        "follows": dict(judged.follows),
        "problems": [problem.as_dict() for problem in verdict.problems],
        "notes": list(verdict.notes),
        "changes": [{**asdict(change), "parameter": to_camel(change.parameter)} for change in fit.changes],
        "bounds": asdict(judged.bounds) if judged.bounds else None,
    }


def _lines(judged: _Judged) -> list[str]:
    fit = judged.fit
    ways = fit.ways or (() if fit.has_room else ("a smaller model, or more memory",))
    lines = [f"{judged.deployment} {fit.told}", *(f"  would fit with {way}" for way in ways)]
    if judged.follows:
        lines.append(
            f"  follows from the model: {', '.join(f'{name} {value}' for name, value in judged.follows.items())}"
        )
    if judged.bounds is not None and fit.verdict.fits:
        lines += [f"  bounds: {line}" for line in told(judged.bounds, length=fit.load.length)]
    return lines + [f"  note: {note}" for note in fit.verdict.notes]
