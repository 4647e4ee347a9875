"""Mapping tables: what each unified parameter becomes on one version of one backend.

A table is the data file `templates/<backend>/mapping.<version>.yaml`; it says something about every parameter:

    max_batch_size: --max-num-seqs                                  # flag and value
    kv_cache_dtype: {flag: --kv-cache-dtype, values: {auto: auto}, otherwise: reason, fix: what to do}
    disable_prefix_cache: {when: {true: [--no-enable-prefix-caching], false: []}}
    cuda_graph_batch_sizes: {flag: --cudagraph-capture-sizes, list: spread}
    disaggregation_bootstrap_port: {env: VLLM_NIXL_SIDE_CHANNEL_PORT, mode: disagg}
    max_seq_len: {setting: max_seq_len, in_disagg: cache_transceiver_config.max_tokens_in_buffer}
    disable_cuda_graph: {when: {true: {cuda_graph_config: null}, false: {}}}
    moe_load_balancer: {unsupported: reason, fix: what to do}

A setting is a key of the engine's settings file, nested ones with a dot; templates write that file. In `when`, a list
is arguments and a mapping is settings.

A table may say `extends: <version>` and then hold only what differs from that one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tandem.api.parameters import EngineParameters
from tandem.rendering.constraints import CONSTRAINTS
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
    """What a value becomes: arguments, environment variables or settings.

    `note` tells when it is not quite what was asked.
    """

    arguments: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    settings: tuple[tuple[str, Value | None], ...] = ()
    note: str = ""

    @property
    def shown(self) -> tuple[str, ...]:
        """What it became, for people: `--max-num-seqs 8`, `NAME=value`, `kv_cache_config.dtype=fp8`."""
        pairs = (*self.environment, *self.settings)
        return self.arguments or tuple(f"{name}={'null' if value is None else as_text(value)}" for name, value in pairs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What the table says about one parameter.

    With `cases`, only the values in it exist, each with its own arguments and `case_settings`. Else `flag`, `env` or
    `setting` (and the setting `in_disagg` in that mode) take the value, translated by `values` when that is given.
    `otherwise` is told for a value that is in neither, `notes` for one that becomes something near to it (`any`: for
    every value). `mode` limits the parameter to a mode.
    """

    flag: str | None = None
    env: str | None = None
    setting: str | None = None
    in_disagg: str | None = None
    values: Mapping[str, str] | None = None
    cases: Mapping[str, tuple[str, ...]] | None = None
    case_settings: Mapping[str, Mapping[str, Value | None]] = field(default_factory=dict)
    spread: bool = False
    notes: Mapping[str, str] = field(default_factory=dict)
    mode: str | None = None
    otherwise: Unsupported

    def target(self, value: Value, mode: str) -> Target | Unsupported:
        """Arguments or variables for `value`, or why there are none."""
        if self.mode is not None and mode != self.mode:
            return Unsupported(f"it means something in mode {self.mode} only", "Remove it.")
        note = self.notes.get(as_text(value), self.notes.get("any", ""))
        if self.cases is not None:
            arguments = self.cases.get(as_text(value))
            settings = tuple(self.case_settings.get(as_text(value), {}).items())
            return self.otherwise if arguments is None else Target(arguments, settings=settings, note=note)
        texts = [as_text(item) for item in value] if isinstance(value, tuple) else [as_text(value)]
        if self.values is not None:
            if any(text not in self.values for text in texts):
                return self.otherwise
            texts = [self.values[text] for text in texts]
        if self.env is not None:
            return Target(environment=((self.env, ",".join(texts)),), note=note)
        if self.setting is not None:
            settled = value if self.values is None else ",".join(texts)
            names = (self.setting, self.in_disagg if mode == "disagg" else None)
            return Target(settings=tuple((name, settled) for name in names if name is not None), note=note)
        if self.flag is None:
            return self.otherwise
        return Target((self.flag, *texts) if self.spread else (self.flag, ",".join(texts)), note=note)

    @property
    def supported(self) -> bool:
        """Whether there is any value that can be had."""
        return any(form is not None for form in (self.flag, self.env, self.setting, self.cases))

    def forms(self) -> tuple[str, ...]:
        """What its values become, for people: a flag, `NAME=`, `setting=`, or each case's own."""
        names = (self.flag, *(name and f"{name}=" for name in (self.env, self.setting)))
        targets = (self.target(case, self.mode or "agg") for case in self.cases or ())
        cases = (" ".join(target.shown) for target in targets if isinstance(target, Target))
        return tuple(form for form in (*names, *cases) if form)


@dataclass(frozen=True, slots=True, kw_only=True)
class MappingTable:
    """Everything known about one version of one backend.

    `lineage` is the version followed by those it extends; templates are looked up in this order. `command` starts a
    worker. `defaults` are values given when nobody says otherwise, `role_defaults` those of single roles. `limits` are
    the limits it enforces with their defaults, `limits_refused` why it does not enforce the others. `reserved` are
    flags that Tandem sets itself, by mode. `must_match` are parameters that prefill and decode must have in common.
    `agreement` are flags and settings whose values prefill and decode workers must agree on, so that they make the
    revision. `constraints` names what must hold between parameters (`tandem.rendering.constraints`). `served_name` is
    why it cannot take every name for clients, by the text that such a name contains.
    """

    backend: str
    version: str
    lineage: tuple[str, ...]
    image: str
    command: tuple[str, ...]
    entries: Mapping[str, Entry]
    defaults: Mapping[str, Value]
    role_defaults: Mapping[str, Mapping[str, Value]]
    limits: Mapping[str, int | str | None]
    limits_refused: Mapping[str, Unsupported]
    reserved: Mapping[str, frozenset[str]]
    must_match: tuple[str, ...]
    agreement: frozenset[str]
    constraints: tuple[str, ...]
    served_name: Mapping[str, Unsupported]
    preferred: bool


_KEYS = frozenset(
    (
        *("backend", "version", "lineage", "preferred", "image", "command", "parameters", "defaults"),
        *("role_defaults", "limits", "limits_refused", "reserved", "must_match", "agreement", "constraints"),
        "served_name",
    )
)
_FORMS = ("flag", "env", "setting", "when", "unsupported")
_ENTRY_KEYS = frozenset((*_FORMS, "in_disagg", "values", "list", "mode", "notes", "otherwise", "fix"))


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
        role_defaults={role: dict(given) for role, given in document.get("role_defaults", {}).items()},
        limits=dict(document.get("limits", {})),
        limits_refused={name: Unsupported(raw["reason"], raw["fix"]) for name, raw in refused.items()},
        reserved={mode: always | frozenset(reserved.get(mode, ())) for mode in ("agg", "disagg")},
        must_match=tuple(document.get("must_match", ())),
        agreement=frozenset(document.get("agreement", ())),
        constraints=_constraints(document.get("constraints", ())),
        served_name={text: Unsupported(**why) for text, why in document.get("served_name", {}).items()},
        preferred=bool(document.get("preferred", False)),
    )


def _entry(name: str, raw: Any) -> Entry:
    if isinstance(raw, str):
        raw = {"flag": raw}
    if not isinstance(raw, dict) or not set(raw) <= _ENTRY_KEYS:
        raise MappingError(f"parameters.{name}: an entry has the keys {', '.join(sorted(_ENTRY_KEYS))}")
    if sum(form in raw for form in _FORMS) != 1:
        raise MappingError(f"parameters.{name}: exactly one of {', '.join(_FORMS)}")
    if not all(isinstance(note, str) for note in raw.get("notes", {}).values()):
        raise MappingError(f"parameters.{name}.notes: a note is a text; put quotes around one with a comma")
    reason = raw.get("unsupported") or raw.get("otherwise") or "this value cannot be had on this backend"
    values, cases = raw.get("values"), raw.get("when")
    return Entry(
        flag=raw.get("flag"),
        env=raw.get("env"),
        setting=raw.get("setting"),
        in_disagg=raw.get("in_disagg"),
        values=None if values is None else {as_text(key): as_text(value) for key, value in values.items()},
        cases=None
        if cases is None
        else {as_text(key): () if isinstance(made, dict) else tuple(made) for key, made in cases.items()},
        case_settings={as_text(key): made for key, made in (cases or {}).items() if isinstance(made, dict)},
        spread=raw.get("list") == "spread",
        notes=dict(raw.get("notes", {})),
        mode=raw.get("mode"),
        otherwise=Unsupported(reason, raw.get("fix", "Remove it.")),
    )


def _constraints(names: list[str]) -> tuple[str, ...]:
    unknown = sorted(set(names) - set(CONSTRAINTS))
    if unknown:
        raise MappingError(
            f"constraints: {', '.join(unknown)} is not known; there are {', '.join(sorted(CONSTRAINTS))}"
        )
    return tuple(names)
