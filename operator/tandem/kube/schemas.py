"""Whether the cluster's CRDs have the fields that this version of the operator knows, and no others.

Read from the API server's published schemas, which everybody may see; CRDs themselves need a right on the cluster.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping
from typing import Any

from tandem.api.base import API_VERSION
from tandem.api.crd import KINDS, crd
from tandem.kube.client import Client
from tandem.kube.errors import ApiError

logger = logging.getLogger(__name__)

Schema = Mapping[str, Any]

MOST_FIELDS = 5
KEEPS_ALL = "x-kubernetes-preserve-unknown-fields"


async def schema_differences(client: Client) -> str:
    """In what the cluster's CRDs differ from ours, with what to do; empty when they do not or it cannot be told."""
    try:
        document = await client.get_path(f"/openapi/v3/apis/{API_VERSION}")
        # Making our schemas takes a tenth of a second, in which the loop would stand still.
        return await asyncio.to_thread(_differences, document)
    except (ApiError, AttributeError, KeyError, TypeError) as error:
        # Not every API server, nor everything between, publishes them as Kubernetes does; nothing depends on it.
        logger.debug("the cluster's schemas could not be read: %r", error)
        return ""


def _differences(document: Mapping[str, Any]) -> str:
    served = _by_kind(document)
    told = []
    for kind in KINDS:
        if kind.name in served:
            ours = crd(kind)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
            told += _told(kind.name, ours, served[kind.name])
    return "; ".join(told)


def lacking(wanted: Schema, served: Schema, path: str = "") -> Iterator[str]:
    """Paths of the fields in `wanted` that `served` does not keep; of a whole that is missing, only its own."""
    if served.get(KEEPS_ALL):
        return
    fields = served.get("properties") or {}
    for name, schema in (wanted.get("properties") or {}).items():
        here = f"{path}.{name}" if path else name
        if name in fields:
            yield from lacking(schema, fields[name], here)
        elif "additionalProperties" not in served:
            yield here
    for inner, sign in (("items", "[]"), ("additionalProperties", ".*")):
        ours, theirs = wanted.get(inner), served.get(inner)
        if isinstance(ours, dict) and isinstance(theirs, dict):
            yield from lacking(ours, theirs, path + sign)


def _told(kind: str, ours: Schema, served: Schema) -> list[str]:
    parts = [part for part in ("spec", "status") if part in (served.get("properties") or {})]
    dropped: list[str] = []
    unknown: list[str] = []
    for part in parts:
        mine, theirs = ours["properties"][part], served["properties"][part]
        dropped += lacking(mine, theirs, part)
        unknown += lacking(theirs, mine, part)
    told = []
    if dropped:
        told.append(
            f"the cluster's CRD of {kind} is older than this operator and drops {_some(dropped)}: install the present "
            "CRDs with `tandem crds | kubectl apply --server-side -f -`, or upgrade the chart with crds.enabled=true"
        )
    if unknown:
        told.append(
            f"the cluster's CRD of {kind} is newer than this operator, which passes over {_some(unknown)}: upgrade the "
            "operator to the version of the CRDs"
        )
    return told


def _some(paths: list[str]) -> str:
    more = f" and {len(paths) - MOST_FIELDS} more" if len(paths) > MOST_FIELDS else ""
    return ", ".join(paths[:MOST_FIELDS]) + more


def _by_kind(document: Mapping[str, Any]) -> dict[str, Schema]:
    schemas = (document.get("components") or {}).get("schemas") or {}
    return {
        gvk["kind"]: schema
        for schema in schemas.values()
        for gvk in schema.get("x-kubernetes-group-version-kind") or ()
    }
