"""`tandem render`: the objects of a deployment, as the operator would apply them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tandem.api.problems import refuse
from tandem.cli.cluster import cluster_from, cluster_options
from tandem.cli.facts import blueprint_option
from tandem.cli.files import write_files
from tandem.cli.source import check_directories, deployments_in, file_option
from tandem.manifests import Build, build
from tandem.manifests.yaml_out import to_yaml

if TYPE_CHECKING:
    from tandem.blueprint.model import Blueprint


@click.command(
    "render",
    short_help="Print the objects that a ModelDeployment is made of.",
    epilog="Example: tandem render -f deployment.yaml | kubectl apply --server-side -f -",
)
@file_option("File with one or more ModelDeployments")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Write one file per object into this directory, and print the names.",
)
@blueprint_option
@cluster_options
def command(*, file: Path, output: Path | None, blueprint: Blueprint | None, **cluster: Any) -> None:
    """Prints every object of the file's ModelDeployments as YAML. Needs no cluster."""
    if output is not None and str(output) in ("yaml", "json"):
        fix = f"Leave -o out for YAML on standard output, or write ./{output}."
        raise refuse("-o", str(output), "this is a directory's name here, and most likely meant as a format", fix)
    facts = cluster_from(**cluster)
    builds = []
    for deployment, source in deployments_in(file, facts.library):
        with source.locating():
            check_directories(deployment, facts)
            builds.append(build(deployment, blueprint=blueprint, cluster=facts))
    for built in builds:
        for warning in (*built.warnings, *built.unknown_fields, *built.misfits):
            click.echo(f"warning: {warning}", err=True)
    if output is None:
        click.echo("".join(to_yaml(built) for built in builds), nl=False)
        return
    write_files(output, _files(builds))


def _files(builds: Iterable[Build]) -> dict[str, str]:
    """Text of each object by file name; the names keep the order in which objects are applied."""
    single = (replace(built, objects=(found,)) for built in builds for found in built.objects)
    return {f"{index:02d}-{_file_name(built.objects[0])}": to_yaml(built) for index, built in enumerate(single)}


def _file_name(found: Mapping[str, Any]) -> str:
    return f"{found['metadata']['name']}-{found['kind'].lower()}.yaml"
