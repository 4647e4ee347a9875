"""`tandem fit`: does each role of a deployment fit into the memory it asks for, with the numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
from pydantic.alias_generators import to_camel

from tandem.api.deployment import ModelDeployment, RoleName
from tandem.api.problems import refuse
from tandem.api.quantity import quantity
from tandem.blueprint.ask import load_of, served
from tandem.blueprint.fits import CPU_RESERVE, Change, Room, Verdict, changes, gib, judge
from tandem.blueprint.gpus import gpu_memory
from tandem.blueprint.memory import Load
from tandem.blueprint.model import Blueprint
from tandem.blueprint.split import ONE, Split, split_of
from tandem.cli.app import EXIT_REFUSED
from tandem.cli.cluster import cluster_from, cluster_options
from tandem.cli.model_files import read_blueprint
from tandem.cli.source import deployments_in, file_option
from tandem.manifests import build


@dataclass(frozen=True, slots=True)
class _Judged:
    deployment: str
    role: str
    load: Load
    split: Split
    gpu: bool
    verdict: Verdict
    changes: tuple[Change, ...]


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
    facts = cluster_from(**cluster)
    judged = []
    for deployment, source in deployments_in(file, facts.library):
        model = _model(deployment, blueprint)
        with source.locating():
            built = build(deployment, blueprint=model, cluster=facts)
            for role in deployment.role_names():
                given = {value.name: value.value for value in built.parameters if value.role == role}
                judged.append(_judged(deployment, role, given, model, _room(deployment, role, given, gpu, gpu_memory)))
    if output == "json":
        click.echo(json.dumps({"fits": all(each.verdict.fits for each in judged), "roles": [*map(_document, judged)]}))
    else:
        click.echo("\n".join(line for each in judged for line in _lines(each)))
    if not all(each.verdict.fits for each in judged):
        click.get_current_context().exit(EXIT_REFUSED)


def _model(deployment: ModelDeployment, given: str | None) -> Blueprint:
    hub = deployment.spec.model.hub
    if given is not None:
        return read_blueprint(given)
    if hub is not None:
        return read_blueprint(hub.repo, revision=hub.revision)
    fix = "Give --blueprint with the model's directory or config.json."
    raise refuse("--blueprint", None, "the model's files are not known from the deployment alone", fix)


def _judged(
    deployment: ModelDeployment, role: RoleName, given: Mapping[str, object], model: Blueprint, room: Room
) -> _Judged:
    backend = deployment.spec.backend
    split = split_of(backend, given) if room.gpu else ONE
    model = served(model, backend, gpu=room.gpu)
    load = load_of(backend, given, model, split)
    verdict = judge(model, load, split, room)
    possible = () if verdict.fits else changes(model, load, split, room, fp8=backend != "torch")
    return _Judged(deployment.metadata.name, role, load, split, room.gpu, verdict, possible)


def _room(
    deployment: ModelDeployment, role: RoleName, given: Mapping[str, object], gpu: str | None, memory: str | None
) -> Room:
    if gpu is not None and memory is not None:
        raise click.UsageError("--gpu and --gpu-memory say the same: give one of them.")
    if gpu is None and memory is None:
        return _cpu(deployment, role)
    size = gpu_memory(gpu) if gpu is not None else _bytes("--gpu-memory", memory)
    share = given.get("kv_cache_free_gpu_memory_fraction")
    # TensorRT-LLM's fraction is of what the weights leave free, and so bounds nothing here.
    own = isinstance(share, float) and deployment.spec.backend != "trtllm"
    return Room(memory=size, usable=float(str(share)) if own else 0.9)


def _cpu(deployment: ModelDeployment, role: RoleName) -> Room:
    resources = deployment.role(role).resources
    limit = (resources.limits or {}).get("memory") if resources else None
    path = f"spec.roles.{role}.resources.limits.memory"
    if limit is None:
        raise refuse(path, None, "there is nothing to judge against", "Give --gpu, or this limit.")
    return Room(memory=_bytes(path, limit), usable=1.0, reserve=CPU_RESERVE, gpu=False)


def _bytes(path: str, value: object) -> int:
    size = quantity(value)
    if size is None or not 1 <= size < 2**63:
        raise refuse(path, value, "this is no amount of memory", "Write 80Gi.")
    return int(size)


def _document(judged: _Judged) -> dict[str, Any]:
    verdict = judged.verdict
    return {
        "deployment": judged.deployment,
        "role": judged.role,
        "fits": verdict.fits,
        "needed": verdict.needed,
        "available": verdict.available,
        "parts": asdict(verdict.parts),
        "asked": {"batch": judged.load.batch, "length": judged.load.length, "gpus": judged.split.gpus},
        "problems": [problem.as_dict() for problem in verdict.problems],
        "notes": list(verdict.notes),
        "changes": [{**asdict(change), "parameter": to_camel(change.parameter)} for change in judged.changes],
    }


def _where(judged: _Judged) -> str:
    if not judged.gpu:
        return "the CPU"
    gpus = judged.split.gpus
    return "1 GPU" if gpus == 1 else f"{gpus} GPUs, the fullest of which"


def _lines(judged: _Judged) -> list[str]:
    load = judged.load
    asked = f"batch {load.batch} × {load.length} tokens on {_where(judged)}"
    lines = [f"{judged.deployment} {judged.role}: {asked}: {judged.verdict}"]
    lines += [f"  would fit with {to_camel(c.parameter)}: {c.value} (needs {gib(c.needed)})" for c in judged.changes]
    return lines + [f"  note: {note}" for note in judged.verdict.notes]
