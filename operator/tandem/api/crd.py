"""The CustomResourceDefinitions, generated from the models: `python -m tandem.api.crd [--check] [DIRECTORY]`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml
from pydantic import BaseModel

from tandem.api.base import API_GROUP
from tandem.api.deployment import DeploymentSpec, ModelDeployment
from tandem.api.generated import write_or_check
from tandem.api.resources import (
    BlueprintSpec,
    BlueprintStatus,
    JobSpec,
    JobStatus,
    ModelBlueprint,
    ModelJob,
    ModelRoute,
    RouteSpec,
)
from tandem.api.schema import Schema, structural_schema
from tandem.api.status import DeploymentStatus, PlainStatus

VERSION = "v1alpha1"
# A client-side apply stores the whole object in an annotation, whose limit is 256 KiB.
MAX_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class Column:
    """A printer column of `kubectl get`; priority 1 is shown with -o wide only."""

    name: str
    path: str
    type: str = "string"
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Kind:
    """What one CRD is made of."""

    resource: type[BaseModel]
    spec: type[BaseModel]
    status: type[BaseModel]
    plural: str
    short: str
    columns: tuple[Column, ...]
    scale: Mapping[str, str] | None = None

    @property
    def name(self) -> str:
        """The kind's name."""
        return self.resource.__name__


def _condition(kind: str, field: str) -> str:
    return f'.status.conditions[?(@.type=="{kind}")].{field}'


KINDS = (
    Kind(
        ModelDeployment,
        DeploymentSpec,
        DeploymentStatus,
        "modeldeployments",
        "md",
        (
            Column("Backend", ".spec.backend"),
            Column("Mode", ".spec.mode"),
            Column("Ready", _condition("Ready", "status")),
            Column("Reason", _condition("Ready", "reason")),
            Column("Phase", ".status.phase", priority=1),
            Column("Endpoint", ".status.endpoint", priority=1),
            Column("Message", _condition("Ready", "message"), priority=1),
        ),
        scale={
            "specReplicasPath": ".spec.replicas",
            "statusReplicasPath": ".status.replicas",
            "labelSelectorPath": ".status.selector",
        },
    ),
    Kind(
        ModelBlueprint,
        BlueprintSpec,
        BlueprintStatus,
        "modelblueprints",
        "mb",
        (
            Column("Parsed", _condition("Parsed", "status")),
            Column("Reason", _condition("Parsed", "reason")),
            Column("Within Budget", _condition("WithinBudget", "status")),
            Column("Params", ".status.totalParams", "integer"),
            Column("Message", _condition("Parsed", "message"), priority=1),
        ),
    ),
    Kind(
        ModelJob,
        JobSpec,
        JobStatus,
        "modeljobs",
        "mj",
        (
            Column("Accepted", _condition("Accepted", "status")),
            Column("Step", ".status.step"),
            Column("Progress", ".status.progress"),
        ),
    ),
    Kind(
        ModelRoute,
        RouteSpec,
        PlainStatus,
        "modelroutes",
        "mr",
        (Column("Model", ".spec.virtualModel"), Column("Accepted", _condition("Accepted", "status"))),
    ),
)


def crd(kind: Kind) -> dict[str, Any]:
    """The CustomResourceDefinition of a kind."""
    subresources: dict[str, Any] = {"status": {}}
    if kind.scale:
        subresources["scale"] = dict(kind.scale)
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{kind.plural}.{API_GROUP}", "labels": {"app.kubernetes.io/part-of": "tandem"}},
        "spec": {
            "group": API_GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": kind.name,
                "listKind": f"{kind.name}List",
                "plural": kind.plural,
                "singular": kind.name.lower(),
                "shortNames": [kind.short],
                "categories": ["tandem"],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": _root_schema(kind)},
                    "subresources": subresources,
                    "additionalPrinterColumns": [*map(_column, kind.columns), _AGE],
                }
            ],
        },
    }


def crd_texts() -> dict[str, str]:
    """File name and YAML text of every CRD, in a fixed order."""
    return {f"{kind.plural}.yaml": _to_yaml(crd(kind)) for kind in KINDS}


_AGE = {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}


def _column(column: Column) -> dict[str, Any]:
    shown: dict[str, Any] = {"name": column.name, "type": column.type, "jsonPath": column.path}
    return {**shown, "priority": column.priority} if column.priority else shown


def _root_schema(kind: Kind) -> Schema:
    return {
        "type": "object",
        "description": (kind.resource.__doc__ or "").strip(),
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": structural_schema(kind.spec),
            "status": structural_schema(kind.status),
        },
    }


def _to_yaml(document: Mapping[str, Any]) -> str:
    return yaml.dump(document, Dumper=yaml.CSafeDumper, sort_keys=False, width=120, allow_unicode=True)


def main(arguments: list[str]) -> int:
    """Writes the CRDs to a directory, or with --check tells which files there are stale (exit 1)."""
    return write_or_check(crd_texts(), arguments, default="crds")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
