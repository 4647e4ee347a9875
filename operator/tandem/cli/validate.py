"""`tandem validate`: everything that can be known to be wrong with a file without a cluster."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tandem.api.deployment import ModelDeployment
from tandem.api.load import Loaded, load, source_name
from tandem.api.problems import Problem, Refused
from tandem.cli.app import EXIT_REFUSED
from tandem.cli.cluster import cluster_from, cluster_options
from tandem.cli.facts import blueprint_option
from tandem.cli.source import check_directories, engine_hints, file_option, resolved
from tandem.manifests import Cluster, build

if TYPE_CHECKING:
    from tandem.blueprint.model import Blueprint


@click.command(
    "validate",
    short_help="Check a file; exit 1 with path and reason for every problem.",
    epilog="Example: tandem validate -f deployment.yaml -o json",
)
@file_option("File with resources of any of Tandem's kinds")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option(
    "--allow-unknown-fields",
    is_flag=True,
    help="Only warn of fields in podTemplate that this Tandem does not know; a newer API server may.",
)
@blueprint_option
@cluster_options
def command(
    *, file: Path, output: str, allow_unknown_fields: bool, blueprint: Blueprint | None, **cluster: Any
) -> None:
    """Checks every resource of the file, and builds the objects of every ModelDeployment. Prints what was checked and
    exits 0, or prints each problem with file, line, path, reason and fix and exits 1.

    With -o json, one document on stdout says it all: {valid, checked: [...], problems: [...]}. A problem
    has path, file, line, column, value, reason and fix.
    """
    checked: list[dict[str, Any]] = []
    problems: list[Problem] = []
    try:
        facts = cluster_from(**cluster)
        whole = load(file, hints=engine_hints(facts.library))
        for loaded in whole:
            try:
                each = _resolved(loaded, whole)
                checked.append(_check(each, facts, blueprint, allow_unknown_fields=allow_unknown_fields))
            except Refused as refused:
                problems += refused.problems
    except Refused as refused:
        problems += refused.problems
    if output == "json":
        found = [problem.as_dict() for problem in problems]
        click.echo(json.dumps({"valid": not problems, "checked": checked, "problems": found}, indent=2))
    elif problems:
        raise Refused(problems)
    else:
        for summary in checked:
            click.echo(_line(source_name(file), summary))
    if problems:
        click.get_current_context().exit(EXIT_REFUSED)


def _resolved(loaded: Loaded, whole: Sequence[Loaded]) -> Loaded:
    return replace(loaded, resource=resolved(loaded, whole)) if isinstance(loaded.resource, ModelDeployment) else loaded


def _check(
    loaded: Loaded, cluster: Cluster, blueprint: Blueprint | None, *, allow_unknown_fields: bool
) -> dict[str, Any]:
    resource = loaded.resource
    summary: dict[str, Any] = {"kind": resource.kind, "name": resource.metadata.name}
    if isinstance(resource, ModelDeployment):
        with loaded.locating():
            check_directories(resource, cluster)
            built = build(resource, blueprint=blueprint, cluster=cluster)
            if built.unknown_fields and not allow_unknown_fields:
                raise Refused(built.unknown_fields)
            if built.misfits and not resource.spec.override_fits:
                raise Refused(built.misfits)
        summary |= {
            "objects": len(built.objects),
            "parameters": len(built.parameters),
            "revision": built.revision,
            "warnings": [*built.warnings, *map(str, built.unknown_fields), *map(str, built.misfits)],
        }
    return summary


def _line(file: str, summary: dict[str, Any]) -> str:
    what = f"{file}: {summary['kind']} {summary['name']}: ok"
    if "objects" not in summary:
        return f"{what} (fields)"
    made = f"{summary['objects']} objects, {summary['parameters']} parameters, revision {summary['revision']}"
    return "\n".join((f"{what} (fields, {made})", *(f"  warning: {warning}" for warning in summary["warnings"])))
