"""ModelBlueprint: reads a config.json once, and keeps its facts in the status."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tandem.api.load import validate_model
from tandem.api.problems import Refused, refuse
from tandem.api.resources import BlueprintDesign
from tandem.blueprint.budget import over_budget
from tandem.blueprint.card import bytes_per_format, kv_kind
from tandem.blueprint.design import from_design
from tandem.blueprint.model import Blueprint
from tandem.blueprint.text import read_text
from tandem.controller.conditions import Condition, as_status, false, true
from tandem.controller.statuswriter import StatusWriter
from tandem.controller.texts import ConfigTexts
from tandem.controller.verdict import Verdict
from tandem.kube.cache import Cache, Ref
from tandem.kube.clock import Clock

_NOT_SERVED = (
    "the facts of a model are read from spec.from.inline, spec.from.configMapRef and spec.design so far: put the text "
    "of its config.json into the first or second"
)
_FACTS = ("digest", "totalParams", "activeParams", "weightBytes", "kv", "maxSeqLen")


@dataclass(frozen=True, slots=True)
class Source:
    """The text of a config.json, and what messages call it."""

    text: str
    name: str


class BlueprintReconciler:
    """Keeps facts and conditions of every ModelBlueprint."""

    def __init__(self, cache: Cache, statuses: StatusWriter, texts: ConfigTexts, clock: Clock) -> None:
        self._cache = cache
        self._statuses = statuses
        self._texts = texts
        self._clock = clock

    async def reconcile(self, ref: Ref) -> Verdict:
        """Brings the status of one object up to date."""
        entry = self._cache.get(ref)
        if entry is None or entry.deleting:
            self._texts.names(ref, ())
            self._statuses.forget(ref)
            return Verdict()
        obj = entry.object
        previous = obj.get("status") or {}
        generation = obj["metadata"].get("generation", 0)
        try:
            spec = obj["spec"]
            source = await self._source(ref, spec)
            facts, conditions = facts_of(source, spec.get("budget") or {}, previous, design=spec.get("design"))
        except Refused as refused:
            facts, conditions = kept(previous), [false("Parsed", "Refused", str(refused))]
        shown = as_status(conditions, previous.get("conditions") or (), generation=generation, now=self._clock.now())
        status = {"observedGeneration": generation, "conditions": shown, **facts}
        return Verdict(again_after=await self._statuses.write(entry, obj, status))

    async def _source(self, ref: Ref, spec: Mapping[str, Any]) -> Source | None:
        """The text that the spec names; None when it names none that is served."""
        given = spec.get("from") or {}
        config_map = given.get("configMapRef")
        self._texts.names(ref, () if config_map is None else (config_map["name"],))
        if config_map is None:
            inline = given.get("inline")
            return None if inline is None else Source(inline, "spec.from.inline")
        path = "spec.from.configMapRef"
        data = await self._texts.read(ref.namespace, config_map["name"], path=f"{path}.name")
        key = config_map.get("key", "config.json")
        if key not in data:
            fix = f"It has {', '.join(sorted(data)) or 'none'}."
            raise refuse(f"{path}.key", key, "the ConfigMap has no such key", fix)
        return Source(data[key], f"ConfigMap {config_map['name']}/{key}")


def facts_of(
    source: Source | None,
    budget: Mapping[str, int],
    previous: Mapping[str, Any],
    *,
    design: Mapping[str, Any] | None = None,
) -> tuple[dict[str, Any], list[Condition]]:
    """(facts, conditions) of a status; raises `Refused`. Facts never change: what was read first stays."""
    if design is not None:
        blueprint = from_design(validate_model(BlueprintDesign, design, "spec.design"))
        return _facts(blueprint), [true("Parsed", "Designed", _summary(blueprint)), *_within(blueprint, budget)]
    if source is None:
        return {}, [false("Parsed", "NotServedYet", _NOT_SERVED)]
    blueprint = read_text(source.text, source.name)
    before = previous.get("digest")
    if before is not None and before != blueprint.digest:
        message = (
            f"{source.name}: its content has changed (digest {blueprint.digest[:12]}, read first {before[:12]}), and "
            "facts never change: create a new ModelBlueprint"
        )
        return kept(previous), [false("Parsed", "ContentChanged", message)]
    return _facts(blueprint), [true("Parsed", "Parsed", _summary(blueprint)), *_within(blueprint, budget)]


def kept(previous: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of an earlier status."""
    return {name: previous[name] for name in _FACTS if name in previous}


def _within(blueprint: Blueprint, budget: Mapping[str, int]) -> list[Condition]:
    if not budget:
        return []
    problems = over_budget(
        blueprint,
        max_params=budget.get("maxParams"),
        max_weight_bytes=budget.get("maxWeightBytes"),
        max_context=budget.get("maxContext"),
    )
    if not problems:
        return [true("WithinBudget", "WithinBudget")]
    return [false("WithinBudget", "OverBudget", "; ".join(map(str, problems)))]


def _facts(blueprint: Blueprint) -> dict[str, Any]:
    structure = blueprint.structure
    facts: dict[str, Any] = {
        "digest": blueprint.digest,
        "totalParams": blueprint.total_params,
        "activeParams": blueprint.active_params,
        "weightBytes": dict(bytes_per_format(blueprint)) or None,
        "maxSeqLen": blueprint.max_seq_len,
    }
    if structure is not None and blueprint.kv_bytes_per_token is not None:
        facts["kv"] = {"kind": kv_kind(structure), "bytesPerToken": blueprint.kv_bytes_per_token}
    return {name: value for name, value in facts.items() if value is not None}


def _summary(blueprint: Blueprint) -> str:
    if blueprint.total_params is None:
        return "declared numbers"
    active = f", {blueprint.active_params:,} per token" if blueprint.is_moe else ""
    return f"{blueprint.architecture}: {blueprint.total_params:,} parameters{active}"
