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

A table may say `extends: <version>` and then hold only what differs from that one. `mapping_file.py` reads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tandem.api.parameters import EngineParameters
from tandem.rendering.values import Value, as_text

PARAMETER_NAMES: tuple[str, ...] = tuple(EngineParameters.model_fields)


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
        made = [tuple(settings) for settings in self.case_settings.values() if settings]
        if len(made) > 2 and len(set(made)) == 1:
            return tuple(f"{setting}=" for setting in made[0])
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
    flags that Tandem sets itself, by mode, `passed` all others that are no parameter's (empty: not known). `must_match`
    are parameters that prefill and decode must have in common. `agreement` are flags and settings whose values prefill
    and decode workers must agree on, so that they make the revision. `constraints` names what must hold between
    parameters (`tandem.rendering.constraints`). `served_name` is why it cannot take every name for clients, by the text
    that such a name contains.
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
    passed: frozenset[str]
    must_match: tuple[str, ...]
    agreement: frozenset[str]
    constraints: tuple[str, ...]
    served_name: Mapping[str, Unsupported]
    preferred: bool
