"""`tandem schema`: everything that can be written, with type, bounds, default and flag per backend."""

from __future__ import annotations

import json

import click
import yaml

from tandem.cli.texts import terminal_width, told_at


@click.command(
    "schema",
    short_help="List every parameter with type, bounds, default and flag per backend.",
    epilog="Example: tandem schema --backend vllm --version 0.33.0 -o json",
)
@click.option("--backend", metavar="BACKEND", help="Only this backend; default: all.")
@click.option("--version", "backend_version", metavar="V", help="Version of that backend; default: the preferred one.")
@click.option("-o", "--output", type=click.Choice(["table", "json", "yaml"]), default="table", show_default=True)
def command(*, backend: str | None, backend_version: str | None, output: str) -> None:
    """Lists the keys of generator inputs and the unified parameters. A default is what rules and the backend give when
    nobody says anything; a parameter that a backend cannot honour is marked as refused.

    The table cuts what is long; -o json and -o yaml have all of it, with the meaning of each parameter and the reason
    of each refusal."""
    from tandem.generator.reference import help_text, reference
    from tandem.generator.schemas import load_schema
    from tandem.rendering.library import load_library

    if backend_version is not None and backend is None:
        raise click.UsageError("--version needs --backend")
    with told_at({"spec.backend": "--backend", "spec.backendVersion": "--version"}):
        found = reference(load_library(), load_schema(), backend=backend, version=backend_version)
    if output == "table":
        click.echo(help_text(found, "all", width=terminal_width()), nl=False)
    elif output == "json":
        click.echo(json.dumps(found.document(), indent=2))
    else:
        click.echo(yaml.safe_dump(found.document(), sort_keys=False, allow_unicode=True), nl=False)
