"""The environment of a container: envFrom, then env in order, with references resolved as the kubelet does it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tandem.api.problems import Problem
from tandem.local.expand import expand
from tandem.local.spec import LOOPBACK

CONFIG_MAP_FIX = "Local mode knows only the ConfigMaps that the deployment itself is made of."
_KEYED_FIELD = re.compile(r"^metadata\.(labels|annotations)\['([^']+)'\]$")


@dataclass(frozen=True, slots=True, kw_only=True)
class PodFacts:
    """What a pod may learn about itself (`valueFrom.fieldRef`)."""

    name: str
    namespace: str
    node: str
    account: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]

    def field(self, path: str) -> str | None:
        """The value of a field path of the downward API; None for one that does not exist."""
        if keyed := _KEYED_FIELD.match(path):
            values = self.labels if keyed.group(1) == "labels" else self.annotations
            return values.get(keyed.group(2), "")
        return {
            "metadata.name": self.name,
            "metadata.namespace": self.namespace,
            "metadata.uid": self.name,
            "spec.nodeName": self.node,
            "spec.serviceAccountName": self.account,
            "status.podIP": LOOPBACK,
            "status.podIPs": LOOPBACK,
            "status.hostIP": LOOPBACK,
        }.get(path)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Where variables and files come from: ConfigMaps of the build, secrets that the user gave by (name, key)."""

    config_maps: Mapping[str, Mapping[str, str]]
    secrets: Mapping[tuple[str, str], str]

    def secret_keys(self, name: str) -> dict[str, str]:
        """All keys that are known of a Secret."""
        return {key: value for (secret, key), value in self.secrets.items() if secret == name}


class _Absent(Exception):
    """A variable has no value and need not have one."""


def container_environment(
    container: Mapping[str, Any], *, facts: PodFacts, sources: Sources, where: str, problems: list[Problem]
) -> dict[str, str]:
    """The variables of `container`; what cannot be resolved is added to `problems`, located below `where`."""
    variables: dict[str, str] = {}
    for index, source in enumerate(container.get("envFrom") or ()):
        variables |= _all_of(source, sources=sources, where=f"{where}.envFrom[{index}]", problems=problems)
    for index, entry in enumerate(container.get("env") or ()):
        at = f"{where}.env[{index}]"
        if "valueFrom" not in entry:
            variables[entry["name"]] = expand(entry.get("value") or "", variables)
            continue
        try:
            variables[entry["name"]] = _referenced(entry["valueFrom"], facts, sources, f"{at}.valueFrom")
        except _Absent:
            continue
        except _Unresolved as unresolved:
            problems.append(unresolved.problem)
    return variables


class _Unresolved(Exception):
    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


def _referenced(source: Mapping[str, Any], facts: PodFacts, sources: Sources, where: str) -> str:
    kind, reference = next(iter(source.items()))
    if kind == "fieldRef":
        path = reference["fieldPath"]
        value = facts.field(path)
        if value is None:
            fix = "Use metadata.name, metadata.namespace or status.podIP."
            raise _Unresolved(Problem(f"{where}.fieldRef", repr(path), "a local process has no such field", fix))
        return value
    if kind == "configMapKeyRef":
        found = sources.config_maps.get(reference["name"], {}).get(reference["key"])
        return _required(found, reference, f"{where}.{kind}", "this ConfigMap key is not known", CONFIG_MAP_FIX)
    if kind == "secretKeyRef":
        found = sources.secrets.get((reference["name"], reference["key"]))
        return _required(found, reference, f"{where}.{kind}", "this Secret key is not known", _key_fix(reference))
    raise _Unresolved(Problem(f"{where}.{kind}", "", "local mode cannot resolve this source", "Give a plain value."))


def whole_secret_fix(name: str) -> str:
    """What to do about a Secret of which no key is known."""
    return f"Add --secret {name}/KEY=VARIABLE for each of its keys."


def _key_fix(reference: Mapping[str, Any]) -> str:
    name, key = reference["name"], reference["key"]
    variable = re.sub(r"\W", "_", f"{name}_{key}").upper()
    return f"Put it in an environment variable and add --secret {name}/{key}={variable}."


def _required(found: str | None, reference: Mapping[str, Any], where: str, reason: str, fix: str) -> str:
    if found is not None:
        return found
    if reference.get("optional"):
        raise _Absent
    raise _Unresolved(Problem(where, f"{reference['name']}/{reference['key']}", reason, fix))


def _all_of(source: Mapping[str, Any], *, sources: Sources, where: str, problems: list[Problem]) -> dict[str, str]:
    prefix = source.get("prefix") or ""
    for kind, values in _named(source, sources):
        reference = source[kind]
        if values:
            return {f"{prefix}{key}": value for key, value in values.items()}
        if not reference.get("optional"):
            fix = whole_secret_fix(reference["name"]) if kind == "secretRef" else CONFIG_MAP_FIX
            problems.append(Problem(f"{where}.{kind}", repr(reference["name"]), "nothing is known of it", fix))
    return {}


def _named(source: Mapping[str, Any], sources: Sources) -> Iterator[tuple[str, Mapping[str, str]]]:
    if "configMapRef" in source:
        yield "configMapRef", sources.config_maps.get(source["configMapRef"]["name"], {})
    if "secretRef" in source:
        yield "secretRef", sources.secret_keys(source["secretRef"]["name"])
