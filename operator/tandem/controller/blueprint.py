"""ModelBlueprint: reads what a model is once, and keeps its facts in the status."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from tandem.api.deployment import HubSource, PvcSource
from tandem.api.load import validate_model
from tandem.api.problems import Refused, refuse
from tandem.api.resources import BlueprintDesign
from tandem.blueprint.design import from_design
from tandem.blueprint.packed import unpack
from tandem.blueprint.text import read_text
from tandem.controller.artifacts import Artifact, Artifacts
from tandem.controller.blueprint_status import conditions_in, facts_of, kept
from tandem.controller.conditions import Condition, as_status, false, find, unknown
from tandem.controller.owned import OwnedBlueprints
from tandem.controller.probes import Finding, Probes, finding_of
from tandem.controller.statuswriter import StatusWriter
from tandem.controller.texts import ConfigTexts
from tandem.controller.uses import Uses
from tandem.controller.verdict import Verdict
from tandem.kube.cache import Cache, Entry, Ref
from tandem.kube.client import Client
from tandem.kube.clock import Clock
from tandem.kube.errors import ApiError
from tandem.kube.resources import JOB
from tandem.manifests.probe import probe_job

# A model that is about to be used anew is looked at again, but not more often than this.
LOOK_AGAIN_SECONDS = 600.0
# A Job without a pod: its pods are refused, or not made yet.
NO_POD_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class _Round:
    """What a look came to: facts and conditions for the status, and when to look again."""

    facts: Mapping[str, Any]
    conditions: list[Condition]
    again_after: float | None = None


@dataclass(frozen=True, slots=True)
class _Look:
    """What a pod is to read for a ModelBlueprint (`document`). Pods that have read just that carry `mark`."""

    document: Mapping[str, Any]
    source: PvcSource | HubSource
    mark: str


class BlueprintReconciler:
    """Keeps facts and conditions of every ModelBlueprint. `changed` hears of each deployment that uses one about which
    there is news."""

    def __init__(
        self,
        *,
        client: Client,
        cache: Cache,
        statuses: StatusWriter,
        texts: ConfigTexts,
        clock: Clock,
        uses: Uses,
        probes: Probes,
        artifacts: Artifacts,
        image: str,
        changed: Callable[[Ref], None],
    ) -> None:
        self._client = client
        self._cache = cache
        self._statuses = statuses
        self._texts = texts
        self._clock = clock
        self._uses = uses
        self._probes = probes
        self._artifacts = artifacts
        self._image = image
        self._changed = changed
        self._owned = OwnedBlueprints(client, cache, uses, clock)
        self._begun: dict[Ref, tuple[str, float]] = {}
        self._told: dict[Ref, object] = {}

    async def reconcile(self, ref: Ref) -> Verdict:
        """Brings the status of one object up to date. Raises ApiError and Fenced."""
        waits = [await self._keep(ref)]
        entry = self._cache.get(ref)
        if entry is None or entry.deleting:
            self._forget(ref)
            self._tell(ref)
            return Verdict(again_after=waits[0])
        obj = entry.object
        previous = obj.get("status") or {}
        generation = obj["metadata"].get("generation", 0)
        try:
            done = await self._look(entry, obj, previous)
        except Refused as refused:
            self._probes.set_stage(ref, "over")
            done = _Round(kept(previous), [false("Parsed", "Refused", str(refused))])
        shown = as_status(
            done.conditions, previous.get("conditions") or (), generation=generation, now=self._clock.now()
        )
        status = {"observedGeneration": generation, "conditions": shown, **done.facts}
        waits += [await self._statuses.write(entry, obj, status), done.again_after]
        self._tell(ref)
        return Verdict(again_after=min((wait for wait in waits if wait is not None), default=None))

    async def _keep(self, ref: Ref) -> float | None:
        """Has it exist as long as it is needed; nobody waits for one that cannot be made."""
        try:
            return await self._owned.keep(ref)
        except ApiError as error:
            if error.is_namespace_ending:
                return None
            if not error.is_transient and self._probes.stage(ref) != "stuck":
                self._probes.set_stage(ref, "stuck")
                for user in self._uses.users(ref):
                    self._changed(user.ref)
            raise

    async def _look(self, entry: Entry, obj: Mapping[str, Any], previous: Mapping[str, Any]) -> _Round:
        spec = obj["spec"]
        budget = spec.get("budget") or {}
        given = spec.get("from") or {}
        if spec.get("design") is not None:
            blueprint = from_design(validate_model(BlueprintDesign, spec["design"], "spec.design."))
            self._probes.set_stage(entry.ref, "over")
            return _Round(*facts_of(blueprint, "spec.design", budget, {}, reason="Designed"))
        if "jobRef" in given:
            made = self._artifacts.of(entry.ref, given["jobRef"]["name"])
            if isinstance(made, Artifact):
                look = _Look(obj, made.place, f"{entry.uid}.{made.mark}")
                return await self._probed(entry.ref, look, previous)
            self._probes.set_stage(entry.ref, "stuck")
            # A job that goes once its files were read takes nothing back.
            return self._unchanged(previous) if previous.get("facts") else _Round({}, [made])
        if "pvc" in given or "hub" in given:
            return await self._probed(entry.ref, _Look(obj, _source(given), entry.uid), previous)
        name, text = await self._text(entry.ref, given)
        self._probes.set_stage(entry.ref, "over")
        return _Round(*facts_of(read_text(text, name), name, budget, previous))

    async def _probed(self, ref: Ref, look: _Look, previous: Mapping[str, Any]) -> _Round:
        """What a pod tells; without one, what is known, or a Job that makes one."""
        pod = self._probes.newest(ref, look.mark)
        if pod is None:
            if previous.get("facts") and not self._is_due(ref, look.mark):
                self._probes.set_stage(ref, "over")
                return self._unchanged(previous)
            return await self._begin(ref, look, previous)
        found = finding_of(pod, self._clock.now())
        self._probes.set_stage(ref, found.stage)
        if found.facts:
            blueprint = unpack(found.facts, "the probe's answer")
            return _Round(*facts_of(blueprint, "the model", look.document["spec"].get("budget") or {}, previous))
        return self._without(found, previous)

    def _without(self, found: Finding, previous: Mapping[str, Any]) -> _Round:
        known = find(previous.get("conditions"), "Parsed") or {}
        if previous.get("facts") or (found.stage != "over" and known.get("status") == "False"):
            # A second look that came to nothing takes nothing back, and one that goes on is no news.
            return self._unchanged(previous)
        make = false if found.stage == "over" else unknown
        return _Round({}, [make("Parsed", found.reason, found.message)])

    def _unchanged(self, previous: Mapping[str, Any]) -> _Round:
        return _Round(kept(previous), conditions_in(previous))

    def _is_due(self, ref: Ref, mark: str) -> bool:
        """Whether the last look was at something else, or somebody wants to use the model anew and it is long ago."""
        asked, last = self._probes.take_ask(ref), self._begun.get(ref)
        if last is None or last[0] != mark:
            return asked or last is not None
        return asked and self._clock.monotonic() - last[1] > LOOK_AGAIN_SECONDS

    async def _begin(self, ref: Ref, look: _Look, previous: Mapping[str, Any]) -> _Round:
        """Creates the Job, unless that was done a moment ago."""
        now = self._clock.monotonic()
        self._probes.take_ask(ref)
        last = self._begun.get(ref)
        found = Finding("starting", reason="Probing", message="a pod is started that reads the model's files")
        if last is None or last[0] != look.mark or now - last[1] > NO_POD_SECONDS:
            self._begun[ref] = (look.mark, now)
            users = self._uses.users(ref)
            pulled = users[0].object["spec"] if users else {}
            job = probe_job(look.document, look.source, mark=look.mark, image=self._image, pulled=pulled)
            try:
                await self._client.create(JOB, job)
            except ApiError as error:
                if error.is_transient:
                    self._begun.pop(ref)
                    raise
                found = Finding("stuck", reason="ProbeRefused", message=str(error))
                if error.is_conflict:
                    found = Finding(
                        "stuck", reason="ProbeWithoutPod", message=f"Job {job['metadata']['name']} has no pod"
                    )
        elif self._probes.stage(ref) == "stuck":
            return replace(self._unchanged(previous), again_after=NO_POD_SECONDS)
        self._probes.set_stage(ref, found.stage)
        return replace(self._without(found, previous), again_after=NO_POD_SECONDS)

    async def _text(self, ref: Ref, given: Mapping[str, Any]) -> tuple[str, str]:
        """Name and text of the config.json that the spec has, or names a ConfigMap for; raises `Refused`."""
        config_map = given.get("configMapRef")
        self._texts.names(ref, () if config_map is None else (config_map["name"],))
        if config_map is None:
            return "spec.from.inline", str(given.get("inline", ""))
        path = "spec.from.configMapRef"
        data = await self._texts.read(ref.namespace, config_map["name"], path=f"{path}.name")
        key = config_map.get("key", "config.json")
        if key not in data:
            fix = f"It has {', '.join(sorted(data)) or 'none'}."
            raise refuse(f"{path}.key", key, "the ConfigMap has no such key", fix)
        return f"ConfigMap {config_map['name']}/{key}", data[key]

    def _tell(self, ref: Ref) -> None:
        """Has the deployments looked at that use it, if there is news for them."""
        entry = self._cache.get(ref)
        parsed = None
        if entry is not None:
            status = entry.object.get("status") or {}
            condition = find(status.get("conditions"), "Parsed") or {}
            parsed = (entry.uid, status.get("facts"), condition.get("reason"), self._probes.stage(ref))
        if self._told.get(ref) == parsed:
            return
        if parsed is None:
            del self._told[ref]
        else:
            self._told[ref] = parsed
        for user in self._uses.users(ref):
            self._changed(user.ref)

    def _forget(self, ref: Ref) -> None:
        self._texts.names(ref, ())
        self._artifacts.forget(ref)
        self._statuses.forget(ref)
        self._probes.forget(ref)
        self._begun.pop(ref, None)


def _source(given: Mapping[str, Any]) -> PvcSource | HubSource:
    if "pvc" in given:
        return PvcSource.model_validate(given["pvc"], by_alias=True, by_name=False, extra="ignore")
    return HubSource.model_validate(given["hub"], by_alias=True, by_name=False, extra="ignore")
