"""`tandem local`: a deployment as processes on this machine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from tandem.api.problems import Problem, Refused
from tandem.cli.cluster import cluster_from, cluster_options
from tandem.cli.settings import KeyValue
from tandem.cli.source import check_directories, engine_hints, file_option


@click.group("local", short_help="Run a deployment as processes on this machine.")
def command() -> None:
    """Runs a deployment as processes on this machine, from the same objects that a cluster would get."""


@command.command(
    "up",
    short_help="Start a deployment; Ctrl-C ends it.",
    epilog="Example: tandem local up -f deployment.yaml --volume models=./models --once 'Tell me a story.'",
)
@file_option("File with one ModelDeployment")
@click.option("--once", metavar="PROMPT", help="Ask this, print the answer, and stop everything.")
@click.option("--max-tokens", type=click.IntRange(min=1), help="Length of the answer to --once, in tokens.")
@click.option("--port", type=click.IntRange(0, 65535), help="Port for clients; default 8000 (a free one with --once).")
@click.option(
    "--volume", "volumes", type=KeyValue(), multiple=True, metavar="CLAIM=DIR", help="Directory of a volume claim."
)
@click.option(
    "--secret",
    "secrets",
    type=KeyValue(),
    multiple=True,
    metavar="NAME/KEY=VARIABLE",
    help="Environment variable that holds a Secret's key.",
)
@cluster_options
@click.option("--verbose", is_flag=True, help="Show what the processes write.")
def up(
    *,
    file: Path,
    once: str | None,
    max_tokens: int | None,
    port: int | None,
    volumes: tuple[tuple[str, str], ...],
    secrets: tuple[tuple[str, str], ...],
    verbose: bool,
    **cluster: Any,
) -> None:
    """Starts the deployment, waits until it answers, and keeps it running until Ctrl-C.

    Prints the address on stdout when it answers (with --once: the answer); everything else goes to stderr.

    Each container becomes a process with this shell's environment under its own. Paths below a mount become paths of
    the directory behind the volume; ports that the container declares become free ports, where the command gives them
    as --port or in a variable that ends in PORT; everything listens on the loopback only. Limits of memory and
    processor, security contexts and network policies have no meaning here (--verbose lists what is left out).
    """
    if max_tokens is not None and once is None:
        raise click.UsageError("--max-tokens is the length of the answer to --once: give both.")
    from tandem.api.load import load_one
    from tandem.local.session import Question, run_session
    from tandem.local.up import LocalOptions

    facts = cluster_from(**cluster)
    deployment, source = load_one(file, hints=engine_hints(facts.library))
    with source.locating():
        check_directories(deployment, facts)
    options = LocalOptions(
        cluster=facts,
        port=0 if port is None and once is not None else port,
        volumes={claim: Path(directory).absolute() for claim, directory in volumes},
        secrets=_secret_values(secrets),
    )
    question = None if once is None else Question(once, max_tokens)
    click.get_current_context().exit(
        run_session(deployment, source, options=options, question=question, verbose=verbose)
    )


def _secret_values(secrets: tuple[tuple[str, str], ...]) -> dict[tuple[str, str], str]:
    """Values by (Secret, key); raises `Refused` for what is not NAME/KEY or names no variable that is set."""
    values: dict[tuple[str, str], str] = {}
    problems = []
    for reference, variable in secrets:
        name, _, key = reference.partition("/")
        where = f"--secret {reference}"
        if not (name and key):
            problems.append(Problem(where, "", "the left side is not NAME/KEY", "Write --secret NAME/KEY=VARIABLE."))
        elif variable not in os.environ:
            problems.append(Problem(where, variable, "this environment variable is not set", "Set and export it."))
        else:
            values[name, key] = os.environ[variable]
    if problems:
        raise Refused(problems)
    return values
