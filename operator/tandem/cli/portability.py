"""`tandem explain --backend`: what becomes of parameters on a backend."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from pydantic.alias_generators import to_camel

from tandem.api.deployment import Mode, ModelDeployment
from tandem.api.parameters import EngineParameters
from tandem.generator.portability import Row, report
from tandem.generator.reference import aligned
from tandem.rendering.library import Library
from tandem.rendering.values import Value

_HEADINGS = ("DEPLOYMENT", "ROLE", "PARAMETER", "VALUE", "STATUS", "BECOMES", "WHY")


@dataclass(frozen=True, slots=True)
class Asked:
    """The backend that is asked about; `mode` counts where no deployment says its own."""

    backend: str
    version: str | None
    mode: Mode


def portability_text(library: Library, asked: Asked, deployments: Sequence[ModelDeployment], output: str) -> str:
    """The report as a table, JSON or YAML: of every parameter, or of those that the deployments give."""
    rows = list(_rows(library, asked, deployments))
    if output == "table":
        cells = [(name, role, *_cells(row)) for name, role, row in rows]
        if not deployments:
            cells = [row[2:] for row in cells]
        headings = _HEADINGS if deployments else _HEADINGS[2:]
        return "\n".join(aligned([headings, *cells])) + "\n"
    document = [_document(name, role, row) for name, role, row in rows]
    if output == "json":
        return json.dumps(document, indent=2) + "\n"
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True)


def _rows(library: Library, asked: Asked, deployments: Sequence[ModelDeployment]) -> Iterator[tuple[str, str, Row]]:
    """(deployment, role, row); both names are empty when no deployment is asked about."""
    if not deployments:
        for row in report(library, asked.backend, version=asked.version, mode=asked.mode):
            yield "", "", row
    for deployment in deployments:
        for role in deployment.role_names():
            shared, own = deployment.spec.parameters, deployment.role(role).parameters
            given = _given(shared) | _given(own)
            found = report(library, asked.backend, version=asked.version, mode=deployment.spec.mode, given=given)
            yield from ((deployment.metadata.name, role, row) for row in found)


def _given(parameters: EngineParameters | None) -> dict[str, Value]:
    if parameters is None:
        return {}
    values = {name: getattr(parameters, name) for name in EngineParameters.model_fields}
    return {name: value for name, value in values.items() if value is not None}


def _cells(row: Row) -> tuple[str, ...]:
    why = " ".join(filter(None, (f"{row.reason}." if row.reason else "", row.fix)))
    return to_camel(row.name), row.value or "-", row.status, " | ".join(row.flags) or "-", why or "-"


def _document(deployment: str, role: str, row: Row) -> dict[str, Any]:
    places = {"deployment": deployment, "role": role} if deployment else {}
    asked = {"value": row.value} if row.value else {}
    return {
        **places,
        "name": to_camel(row.name),
        **asked,
        "status": row.status,
        "becomes": list(row.flags),
        "reason": row.reason,
        "fix": row.fix,
    }
