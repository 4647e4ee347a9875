"""Objects that somebody keeps changing back: which, at which fields, and who, by the API server's own records."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tandem.kube.cache import Ref
from tandem.kube.client import FIELD_MANAGER, Client
from tandem.kube.errors import ApiError
from tandem.kube.resources import BY_KIND

logger = logging.getLogger(__name__)

MOST_PATHS = 5


@dataclass(frozen=True, slots=True)
class Contest:
    """An object that is changed again and again at `paths`, or deleted when there are none; `managers` are the field
    managers that change it, if known."""

    ref: Ref
    paths: tuple[str, ...]
    managers: tuple[str, ...] = ()

    def __str__(self) -> str:
        what = f"keeps changing {', '.join(self.paths[:MOST_PATHS])}" if self.paths else "keeps deleting it"
        advice = "it is put back ever more rarely: have that one leave the object alone"
        return f"{self.ref}: {culprit(self.managers)} {what}, and {advice}"


def culprit(managers: Sequence[str]) -> str:
    """Who changes things, for people."""
    if not managers:
        return "somebody"
    if FIELD_MANAGER in managers:
        return f"field manager {FIELD_MANAGER} (a second Tandem operator that serves this namespace)"
    return f"field manager {', '.join(managers)}"


async def managers_of(client: Client, contest: Contest) -> tuple[str, ...]:
    """The field managers that a contested object owes its present state to; empty when they cannot be told."""
    ref = contest.ref
    try:
        found = await client.get(BY_KIND[ref.kind], ref.namespace, ref.name)
    except ApiError as error:
        logger.debug("who changes %s could not be read: %s", ref, error)
        return ()
    return owners(found["metadata"].get("managedFields") or (), contest.paths)


def owners(managed: Iterable[Mapping[str, Any]], paths: Iterable[str]) -> tuple[str, ...]:
    """Of `metadata.managedFields`, who owns any of `paths`; when nobody does (a field was removed), who came last.

    Our own name is told only when nobody else's is: then another operator wrote what we have not.
    """
    entries = [entry for entry in managed if entry.get("subresource") != "status"]
    wanted = tuple(paths)
    holding = {
        str(entry.get("manager", ""))
        for entry in entries
        if any(_owns(entry.get("fieldsV1") or {}, path) for path in wanted)
    }
    others = sorted(holding - {FIELD_MANAGER})
    if others or holding:
        return tuple(others or holding)
    foreign = [entry for entry in entries if entry.get("manager") != FIELD_MANAGER]
    last = max(foreign, key=lambda entry: str(entry.get("time", "")), default=None)
    return (str(last["manager"]),) if last else ()


def _owns(fields: Mapping[str, Any], path: str) -> bool:
    """Whether a fieldsV1 tree holds the field at `path`, a part of it, or a whole that it is a part of."""
    path = path.lstrip(".")
    if not path or not any(key != "." for key in fields):
        return True
    return any(_owns(fields[key], rest) for key, rest in _steps(fields, path))


def _steps(fields: Mapping[str, Any], path: str) -> Iterator[tuple[str, str]]:
    """The keys of a fieldsV1 tree that `path` may begin with, and what is left of it. Names may hold dots."""
    if path.startswith("["):
        inside, _, rest = path[1:].partition("]")
        for key in fields:
            if key.startswith("k:") and inside == "/".join(map(str, json.loads(key[2:]).values())):
                yield key, rest
        return
    for key in fields:
        name = key[2:]
        if key.startswith("f:") and path.startswith(name) and path[len(name) : len(name) + 1] in ("", ".", "["):
            yield key, path[len(name) :]
