"""`tandem fit`: does each role of a deployment fit into the memory it asks for, with the numbers."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click
from pydantic.alias_generators import to_camel

from tandem.api.deployment import ModelDeployment
from tandem.api.problems import Refused, refuse
from tandem.blueprint.gpus import gpu_memory as memory_of
from tandem.blueprint.model import Blueprint
from tandem.cli.app import EXIT_REFUSED
from tandem.cli.cluster import cluster_from, cluster_options
from tandem.cli.model_files import read_blueprint
from tandem.cli.source import deployments_in, file_option
from tandem.manifests import build
from tandem.manifests.fitting import RoleFit, Unjudged, memory_bytes


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
    part, and single changes that would make it fit. Without a GPU, against the memory limit of the role.

    The parameters are those of tandem explain; a role that gives no batch size is judged for one sequence.
    """
    if gpu is not None and gpu_memory is not None:
        raise click.UsageError("--gpu and --gpu-memory say the same: give one of them.")
    size = memory_of(gpu) if gpu is not None else memory_bytes("--gpu-memory", gpu_memory) if gpu_memory else None
    facts = cluster_from(**cluster)
    judged: list[tuple[str, RoleFit]] = []
    for deployment, source in deployments_in(file, facts.library):
        model = _model(deployment, blueprint)
        sizes: dict[str, int] = {} if size is None else dict.fromkeys(map(str, deployment.role_names()), size)
        with source.locating():
            built = build(deployment, blueprint=model, cluster=replace(facts, gpu_memory=sizes))
            judged += [(deployment.metadata.name, _judged(fit)) for fit in built.fits]
    fits = all(fit.verdict.fits for _, fit in judged)
    if output == "json":
        click.echo(json.dumps({"fits": fits, "roles": [_document(name, fit) for name, fit in judged]}))
    else:
        click.echo("\n".join(line for name, fit in judged for line in _lines(name, fit)))
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


def _judged(fit: RoleFit | Unjudged) -> RoleFit:
    if isinstance(fit, Unjudged):
        raise Refused([replace(fit.why, fix=f"Give --gpu or --gpu-memory. {fit.why.fix}")])
    return fit


def _document(name: str, fit: RoleFit) -> dict[str, Any]:
    verdict = fit.verdict
    return {
        "deployment": name,
        "role": fit.role,
        "fits": verdict.fits,
        "needed": verdict.needed,
        "available": verdict.available,
        "parts": asdict(verdict.parts),
        "asked": {"batch": fit.load.batch, "length": fit.load.length, "gpus": fit.split.gpus},
        "problems": [problem.as_dict() for problem in verdict.problems],
        "notes": list(verdict.notes),
        "changes": [{**asdict(change), "parameter": to_camel(change.parameter)} for change in fit.changes],
    }


def _lines(name: str, fit: RoleFit) -> list[str]:
    lines = [f"{name} {fit.told}", *(f"  would fit with {way}" for way in fit.ways)]
    return lines + [f"  note: {note}" for note in fit.verdict.notes]
