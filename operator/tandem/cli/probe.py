"""`tandem probe`: reads a model's facts inside a pod, and leaves them as the container's termination message."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tandem.api.problems import Refused, refuse
from tandem.blueprint.packed import pack
from tandem.cli.app import EXIT_REFUSED
from tandem.cli.model_files import CONFIG, of_repository, read_blueprint

if TYPE_CHECKING:
    from tandem.blueprint.model import Blueprint

# Of a kubelet, for all containers of a pod.
LONGEST_ANSWER = 4096
_LONGEST_REASON = 2000


@click.command(
    "probe",
    short_help="Read a model's facts in a pod, for the operator.",
    epilog="Example: tandem probe --directory /models/qwen --answer /dev/termination-log",
)
@click.option("--directory", metavar="DIR", help="Directory of the model's files.")
@click.option("--repository", metavar="OWNER/NAME", help="Repository of a hub (HF_ENDPOINT, HF_TOKEN).")
@click.option("--revision", default="main", show_default=True, help="Branch, tag or commit of the repository.")
@click.option(
    "--answer",
    type=click.Path(path_type=Path),
    default=Path("/dev/termination-log"),
    show_default=True,
    metavar="FILE",
    help="Where the answer goes.",
)
def command(*, directory: str | None, repository: str | None, revision: str, answer: Path) -> None:
    """Writes {"facts": TEXT}, or {"refused": REASON} and exits 1. Reads config.json and, in a directory, how many bytes
    its safetensors files hold; nothing else."""
    if (directory is None) == (repository is None):
        raise click.UsageError("Give one of --directory and --repository.")
    try:
        blueprint = _of_directory(directory) if directory is not None else of_repository(str(repository), revision)
        told, status = json.dumps({"facts": pack(blueprint)}), 0
        if len(told) > LONGEST_ANSWER:
            fix = "Give the text of its config.json to a ModelBlueprint, as spec.from.configMapRef."
            raise refuse(CONFIG, f"{len(told)} bytes", "its facts are too long for a pod to tell", fix)
    except Refused as refused:
        told, status = _reason(str(refused)), EXIT_REFUSED
    answer.write_text(told)
    if status:
        click.get_current_context().exit(status)


def _reason(text: str) -> str:
    """A refusal as ASCII, short enough whatever is in it."""
    length = _LONGEST_REASON
    while len(told := json.dumps({"refused": text[:length]})) > LONGEST_ANSWER:
        length //= 2
    return told


def _of_directory(directory: str) -> Blueprint:
    if not Path(directory).is_dir():
        raise refuse(directory, None, "there is no such directory on the volume", "Correct the path.")
    return read_blueprint(directory)
