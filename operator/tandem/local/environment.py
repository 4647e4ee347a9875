"""The environment of a container: envFrom, then env in order, with references resolved as the kubelet does it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from tandem.api.problems import Problem
from tandem.local.expand import expand
from tandem.local.spec import LOOPBACK
from tandem.local.template import Container, KeyRef, ValueSource, VariableSource

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


def container_environment(
    container: Container, *, facts: PodFacts, sources: Sources, where: str, problems: list[Problem]
) -> dict[str, str]:
    """The variables of `container`; what cannot be resolved is added to `problems`, located below `where`."""
    variables: dict[str, str] = {}
    for index, source in enumerate(container.env_from):
        variables |= _all_of(source, sources, f"{where}.envFrom[{index}]", problems)
    for index, entry in enumerate(container.env):
        if entry.value_from is None:
            variables[entry.name] = expand(entry.value, variables)
            continue
        try:
            variables[entry.name] = _referenced(entry.value_from, facts, sources, f"{where}.env[{index}].valueFrom")
        except _Absent:
            continue
        except _Unresolved as unresolved:
            problems.append(unresolved.problem)
    return variables


class _Absent(Exception):
    """A variable has no value and need not have one."""


class _Unresolved(Exception):
    """A variable has no value and should have one."""

    def __init__(self, path: str, value: str, reason: str, fix: str) -> None:
        super().__init__(reason)
        self.problem = Problem(path, value, reason, fix)


def _referenced(source: ValueSource, facts: PodFacts, sources: Sources, where: str) -> str:
    if field := source.field_ref:
        value = facts.field(field.field_path)
        if value is None:
            fix = "Use metadata.name, metadata.namespace or status.podIP."
            raise _Unresolved(f"{where}.fieldRef", repr(field.field_path), "a local process has no such field", fix)
        return value
    if key := source.config_map_key_ref:
        found = sources.config_maps.get(key.name, {}).get(key.key)
        return _required(found, key, f"{where}.configMapKeyRef", "this ConfigMap key is not known", CONFIG_MAP_FIX)
    if key := source.secret_key_ref:
        found = sources.secrets.get((key.name, key.key))
        return _required(
            found, key, f"{where}.secretKeyRef", "this Secret key is not known", key_fix(key.name, key.key)
        )
    raise _Unresolved(f"{where}.{source.unknown}", "", "local mode cannot resolve this source", "Give a plain value.")


def _required(found: str | None, key: KeyRef, where: str, reason: str, fix: str) -> str:
    if found is not None:
        return found
    if key.optional:
        raise _Absent
    raise _Unresolved(where, f"{key.name}/{key.key}", reason, fix)


def _all_of(source: VariableSource, sources: Sources, where: str, problems: list[Problem]) -> dict[str, str]:
    values: Mapping[str, str] = {}
    if reference := source.config_map_ref:
        values = sources.config_maps.get(reference.name, {})
        path, fix = f"{where}.configMapRef", CONFIG_MAP_FIX
    elif reference := source.secret_ref:
        values = sources.secret_keys(reference.name)
        path, fix = f"{where}.secretRef", whole_secret_fix(reference.name)
    else:
        path, fix = f"{where}.{source.unknown}", "Use configMapRef or secretRef."
    if not values and not (reference and reference.optional):
        problems.append(Problem(path, repr(reference.name) if reference else "", "nothing is known of it", fix))
    return {f"{source.prefix}{key}": value for key, value in values.items()}


def whole_secret_fix(name: str) -> str:
    """What to do about a Secret of which no key is known."""
    return f"Add --secret {name}/KEY=VARIABLE for each of its keys."


def key_fix(name: str, key: str) -> str:
    """What to do about a key of a Secret that is not known."""
    variable = re.sub(r"\W", "_", f"{name}_{key}").upper()
    return f"Put it in an environment variable and add --secret {name}/{key}={variable}."
