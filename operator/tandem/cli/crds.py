"""`tandem crds`: the CustomResourceDefinitions, as `kubectl apply -f -` takes them."""

from __future__ import annotations

import click

from tandem.data import data_dir


@click.command(
    "crds",
    short_help="Print the CustomResourceDefinitions.",
    epilog="Example: tandem crds | kubectl apply --server-side -f -",
)
def command() -> None:
    """Prints the CustomResourceDefinitions of this version."""
    files = sorted(
        (entry for entry in data_dir("crds").iterdir() if entry.name.endswith(".yaml")), key=lambda e: e.name
    )
    click.echo("".join(f"---\n{file.read_text(encoding='utf-8')}" for file in files), nl=False)
