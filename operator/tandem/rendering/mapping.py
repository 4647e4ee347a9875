"""Mapping tables: what each unified parameter becomes on one version of one backend.

A table is the data file `templates/<backend>/mapping.<version>.yaml`; it says something about every parameter:

    max_batch_size: --max-num-seqs                                  # flag and value
    kv_cache_dtype: {flag: --kv-cache-dtype, values: {auto: auto}, otherwise: reason, fix: what to do}
    disable_prefix_cache: {when: {true: [--no-enable-prefix-caching], false: []}}
    cuda_graph_batch_sizes: {flag: --cudagraph-capture-sizes, list: spread}
    disaggregation_bootstrap_port: {env: VLLM_NIXL_SIDE_CHANNEL_PORT, mode: disagg}
    moe_load_balancer: {unsupported: reason, fix: what to do}

A table may say `extends: <version>` and then hold only what differs from that one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from tandem.api.parameters import EngineParameters
from tandem.rendering.values import Value, as_text

PARAMETER_NAMES: tuple[str, ...] = tuple(EngineParameters.model_fields)


class MappingError(Exception):
    """A mapping file that cannot be used: the text says which entry and why."""


@dataclass(frozen=True, slots=True)
class Unsupported:
    """Why a value cannot be had here, and what to do instead."""

    reason: str
    fix: str


@dataclass(frozen=True, slots=True)
class Target:
    """What a value becomes: arguments or environment variables; `note` tells when it is not quite what was asked."""

    arguments: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What the table says about one parameter.

    With `cases`, only the values in it exist, and each is its own arguments. Else `flag` or `env` take the value,
    translated by `values` when that is given. `otherwise` is told for a value that is in neither, `notes` for one that
    becomes something near to it. `mode` limits the parameter to a mode.
    """

    flag: str | None = None
    env: str | None = None
    values: Mapping[str, str] | None = None
    cases: Mapping[str, tuple[str, ...]] | None = None
    spread: bool = False
    notes: Mapping[str, str] = field(default_factory=dict)
    mode: str | None = None
    otherwise: Unsupported

    def target(self, value: Value, mode: str) -> Target | Unsupported:
        """Arguments or variables for `value`, or why there are none."""
        if self.mode is not None and mode != self.mode:
            return Unsupported(f"it means something in mode {self.mode} only", "Remove it.")
        note = self.notes.get(as_text(value), "")
        if self.cases is not None:
            arguments = self.cases.get(as_text(value))
            return self.otherwise if arguments is None else Target(arguments, note=note)
        texts = [as_text(item) for item in value] if isinstance(value, tuple) else [as_text(value)]
        if self.values is not None:
            if any(text not in self.values for text in texts):
                return self.otherwise
            texts = [self.values[text] for text in texts]
        if self.env is not None:
            return Target(environment=((self.env, ",".join(texts)),), note=note)
        if self.flag is None:
            return self.otherwise
        return Target((self.flag, *texts) if self.spread else (self.flag, ",".join(texts)), note=note)


@dataclass(frozen=True, slots=True, kw_only=True)
class MappingTable:
    """Everything known about one version of one backend.

    `lineage` is the version followed by those it extends; templates are looked up in this order. `command` starts a
    worker. `defaults` are values given when nobody says otherwise. `limits` are the limits it enforces with their
    defaults, `limits_refused` why it does not enforce the others. `reserved` are flags that Tandem sets itself, by
    mode. `must_match` are parameters that prefill and decode must have in common. `agreement` are flags whose values
    prefill and decode workers must agree on, so that they make the revision.
    """

    backend: str
    version: str
    lineage: tuple[str, ...]
    image: str
    command: tuple[str, ...]
    entries: Mapping[str, Entry]
    defaults: Mapping[str, Value]
    limits: Mapping[str, int | str | None]
    limits_refused: Mapping[str, Unsupported]
    reserved: Mapping[str, frozenset[str]]
    must_match: tuple[str, ...]
    agreement: frozenset[str]
    preferred: bool


_KEYS = frozenset(
    (
        *("backend", "version", "lineage", "preferred", "image", "command", "parameters", "defaults"),
        *("limits", "limits_refused", "reserved", "must_match", "agreement"),
    )
)
_ENTRY_KEYS = frozenset(("flag", "env", "values", "when", "list", "mode", "notes", "otherwise", "unsupported", "fix"))


def extend(version: str, documents: Mapping[str, object]) -> dict[str, Any]:
    """The parsed YAML of `version` over what it extends, with its `lineage`; raises `MappingError`."""
    merged: dict[str, Any] = {}
    lineage: list[str] = []
    following: str | None = version
    while following is not None:
        document = documents.get(following)
        if not isinstance(document, dict) or following in lineage:
            raise MappingError(f"extends: {following} cannot be extended")
        lineage.append(following)
        parameters = {**document.get("parameters", {}), **merged.get("parameters", {})}
        merged = {**document, **merged, "parameters": parameters}
        merged.pop("extends", None)
        following = document.get("extends")
    return {**merged, "lineage": lineage}


def parse_mapping(document: object) -> MappingTable:
    """A table from its parsed YAML with `lineage`; raises `MappingError`."""
    if not isinstance(document, dict) or not set(document) <= _KEYS:
        raise MappingError(f"a mapping file has the keys {', '.join(sorted(_KEYS))} and no others")
    missing = [key for key in ("backend", "version", "image", "command", "parameters") if key not in document]
    if missing:
        raise MappingError(f"the keys {', '.join(missing)} are missing")
    raw = document["parameters"]
    silent = [name for name in PARAMETER_NAMES if name not in raw]
    unknown = [name for name in raw if name not in PARAMETER_NAMES]
    if silent or unknown:
        raise MappingError(f"parameters: says nothing about {silent}; knows {unknown}, which do not exist")
    refused, reserved = document.get("limits_refused", {}), document.get("reserved", {})
    always = frozenset(reserved.get("always", ()))
    return MappingTable(
        backend=document["backend"],
        version=str(document["version"]),
        lineage=tuple(document["lineage"]),
        image=document["image"],
        command=tuple(document["command"]),
        entries={name: _entry(name, raw[name]) for name in PARAMETER_NAMES},
        defaults=dict(document.get("defaults", {})),
        limits=dict(document.get("limits", {})),
        limits_refused={name: Unsupported(raw["reason"], raw["fix"]) for name, raw in refused.items()},
        reserved={mode: always | frozenset(reserved.get(mode, ())) for mode in ("agg", "disagg")},
        must_match=tuple(document.get("must_match", ())),
        agreement=frozenset(document.get("agreement", ())),
        preferred=bool(document.get("preferred", False)),
    )


def _entry(name: str, raw: Any) -> Entry:
    if isinstance(raw, str):
        raw = {"flag": raw}
    if not isinstance(raw, dict) or not set(raw) <= _ENTRY_KEYS:
        raise MappingError(f"parameters.{name}: an entry has the keys {', '.join(sorted(_ENTRY_KEYS))}")
    forms: list[Literal["flag", "env", "when", "unsupported"]] = [
        form for form in ("flag", "env", "when", "unsupported") if form in raw
    ]
    if len(forms) != 1:
        raise MappingError(f"parameters.{name}: exactly one of flag, env, when, unsupported")
    reason = raw.get("unsupported") or raw.get("otherwise") or "this value cannot be had on this backend"
    values, cases = raw.get("values"), raw.get("when")
    return Entry(
        flag=raw.get("flag"),
        env=raw.get("env"),
        values=None if values is None else {as_text(key): as_text(value) for key, value in values.items()},
        cases=None if cases is None else {as_text(key): tuple(args) for key, args in cases.items()},
        spread=raw.get("list") == "spread",
        notes=dict(raw.get("notes", {})),
        mode=raw.get("mode"),
        otherwise=Unsupported(reason, raw.get("fix", "Remove it.")),
    )
