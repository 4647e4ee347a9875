"""`tandem explain`: every engine parameter with its value, where that comes from, and what it became."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import yaml
from pydantic.alias_generators import to_camel, to_snake

from tandem.api.deployment import ModelDeployment
from tandem.api.parameters import EngineParameters
from tandem.api.problems import refuse
from tandem.cli.cluster import cluster_from, cluster_options
from tandem.cli.source import deployments_in, file_option
from tandem.manifests import Build, ParameterValue, RuleHit, build

_HEADINGS = ("DEPLOYMENT", "ROLE", "PARAMETER", "VALUE", "SOURCE", "FROM", "ARGUMENTS")


@dataclass(frozen=True, slots=True)
class _Explained:
    """A deployment with the parameters and rule hits that were asked for."""

    deployment: ModelDeployment
    parameters: tuple[ParameterValue, ...]
    hits: tuple[RuleHit, ...]


@click.command(
    "explain",
    short_help="Show each engine parameter with the source of its value.",
    epilog="Example: tandem explain -f deployment.yaml maxNumTokens",
)
@file_option("File with one or more ModelDeployments")
@click.argument("parameter", metavar="[PARAM]", required=False)
@click.option("-o", "--output", type=click.Choice(["table", "json", "yaml"]), default="table", show_default=True)
@cluster_options
def command(*, file: Path, parameter: str | None, output: str, **cluster: Any) -> None:
    """Shows the engine parameters in effect: value, source (user, parameters, rule, default, blueprint), place, and
    the arguments they became. With PARAM: only that one, and what each rule did to it."""
    name = None if parameter is None else _known(parameter)
    facts = cluster_from(**cluster)
    explained = [_explain(found, build(found, cluster=facts), name) for found in deployments_in(file)]
    if output == "table":
        click.echo(_table(explained, name))
    elif output == "json":
        click.echo(json.dumps(_document(explained), indent=2))
    else:
        click.echo(yaml.safe_dump(_document(explained), sort_keys=False), nl=False)


def _known(parameter: str) -> str:
    """The parameter's name in snake_case, which may also be how it was given."""
    known = list(EngineParameters.model_fields)
    name = to_snake(parameter)
    if name in known:
        return name
    near = [to_camel(each) for each in difflib.get_close_matches(name, known, n=3)]
    fix = f"Did you mean {' or '.join(near)}?" if near else "See: kubectl explain modeldeployment.spec.parameters"
    raise refuse("PARAM", parameter, "there is no such parameter", fix)


def _explain(deployment: ModelDeployment, built: Build, name: str | None) -> _Explained:
    return _Explained(
        deployment,
        tuple(each for each in built.parameters if name in (None, each.name)),
        tuple(hit for hit in built.rule_trace if name == hit.name),
    )


def _table(explained: Sequence[_Explained], name: str | None) -> str:
    rows = [
        (
            each.deployment.metadata.name,
            value.role,
            to_camel(value.name),
            _text(value.value),
            value.source,
            value.detail,
            " ".join(value.arguments) or "-",
        )
        for each in explained
        for value in each.parameters
    ]
    lines = list(_aligned((_HEADINGS, *rows)))
    if not rows:
        lines = [f"{to_camel(name)} is not set: the engine's own default holds" if name else "no parameter is set"]
    for each in explained:
        lines += [
            f"{hit.location}: {hit.role} {to_camel(hit.name)} = {_text(hit.value)} ({hit.outcome})" for hit in each.hits
        ]
    return "\n".join(lines)


def _aligned(rows: Sequence[Sequence[str]]) -> Iterable[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADINGS))]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _text(value: object) -> str:
    if value is None:
        return "-"
    return json.dumps(value) if isinstance(value, bool | tuple) else str(value)


def _document(explained: Sequence[_Explained]) -> list[dict[str, Any]]:
    return [
        {
            "deployment": each.deployment.metadata.name,
            "parameters": [
                {
                    "role": value.role,
                    "name": to_camel(value.name),
                    "value": _plain(value.value),
                    "source": value.source,
                    "detail": value.detail,
                    "arguments": list(value.arguments),
                }
                for value in each.parameters
            ],
            "rules": [
                {
                    "role": hit.role,
                    "name": to_camel(hit.name),
                    "value": _plain(hit.value),
                    "location": hit.location,
                    "outcome": hit.outcome,
                }
                for hit in each.hits
            ],
        }
        for each in explained
    ]


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value
