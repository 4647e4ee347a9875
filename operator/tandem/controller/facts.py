"""What is known of a deployment's model and its GPUs, and whether it is worth waiting to know more."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import ValidationError

from tandem.api.deployment import ModelDeployment
from tandem.api.problems import Refused
from tandem.api.resources import BlueprintSource
from tandem.blueprint.model import Blueprint
from tandem.blueprint.packed import unpack
from tandem.controller.conditions import find
from tandem.controller.nodes import GpuNodes
from tandem.controller.probes import Probes
from tandem.controller.uses import Uses
from tandem.kube.cache import Cache, Entry, Ref
from tandem.kube.clock import Clock
from tandem.manifests.fitting import gpu_memory_of, uses_gpu

logger = logging.getLogger(__name__)

# For the pod that reads the model to be made and scheduled (where it cannot be, that is known at once), and for it to
# end once it is.
STARTING_SECONDS = 10.0
RUNNING_SECONDS = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """The facts of a deployment's model from the ModelBlueprint `name`, also `packed`; with its `spec.from` where the
    deployment names it. Without facts, `reason` and `message` say why. `wait` are seconds in which facts may come."""

    name: str | None = None
    blueprint: Blueprint | None = None
    packed: str = ""
    source: Mapping[str, Any] | None = None
    reason: str = ""
    message: str = ""
    wait: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Pin:
    """What the spec with this hash was first rendered with: workers run with it until the spec changes, also while the
    ModelBlueprint is gone. `facts` are packed; `source` is its `spec.from` as JSON where the deployment names it."""

    spec: str
    name: str | None = None
    digest: str | None = None
    facts: str = ""
    source: str = ""
    gpu_memory: Mapping[str, int] = field(default_factory=dict)

    def as_status(self) -> dict[str, Any]:
        """As the status has it."""
        shown = {"name": self.name, "digest": self.digest, "facts": self.facts, "source": self.source}
        found = {**shown, "gpuMemory": dict(self.gpu_memory)}
        return {"spec": self.spec, **{key: value for key, value in found.items() if value}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What to render with: `defaults` give parameters, `late` only judges. `wait`: seconds to wait for facts instead.
    `lost`: it was rendered with facts that nobody has any more; what runs must stay as it is."""

    pin: Pin
    defaults: Blueprint | None = None
    late: Blueprint | None = None
    wait: float = 0.0
    lost: bool = False
    is_new: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Told:
    """What one version of a ModelBlueprint says. Read once: it has an owner for each deployment of the model, and all
    of these look at it again and again."""

    uid: str
    version: int
    source: Mapping[str, Any]
    facts: str
    status: str
    reason: str
    message: str


def spec_hash(spec: Mapping[str, Any]) -> str:
    """A hash of what makes workers what they are: numbers of them, and how they are replaced, aside."""
    apart = ("replicas", "router", "rollout", "overrideFits", "roles")
    roles = {
        name: {key: value for key, value in (role or {}).items() if key != "replicas"}
        for name, role in (spec.get("roles") or {}).items()
    }
    kept = {**{key: value for key, value in spec.items() if key not in apart}, "roles": roles}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:12]


def pin_in(status: Mapping[str, Any]) -> Pin | None:
    """The pin as a status has it."""
    found = status.get("blueprint")
    if not found or not found.get("spec"):
        return None
    return Pin(
        spec=found["spec"],
        name=found.get("name"),
        digest=found.get("digest"),
        facts=found.get("facts") or "",
        source=found.get("source") or "",
        gpu_memory=found.get("gpuMemory") or {},
    )


def pinned_source(pin: Pin | None, spec: str) -> Mapping[str, Any] | None:
    """`spec.from` of the ModelBlueprint that this spec was rendered with; None where it is not known."""
    if pin is None or pin.spec != spec or not pin.source:
        return None
    try:
        found = BlueprintSource.model_validate_json(pin.source, by_alias=True, by_name=False, extra="ignore")
    except ValidationError:
        return None  # not as we wrote it
    return found.as_manifest()


def choose(
    known: Known,
    *,
    spec: str,
    status: Mapping[str, Any],
    generation: int,
    has_workers: bool,
    gpu_memory: Mapping[str, int],
    recall: Callable[[str], Blueprint | None],
    pinned: Pin | None = None,
) -> Choice:
    """Pure: the pin decides (of the status, or `pinned` where that may be behind); facts that came later never change
    running workers. `recall` unpacks the facts of a pin."""
    pin = pinned or pin_in(status)
    rendered = find(status.get("conditions"), "Rendered") or {}
    if (
        pin is None
        and has_workers
        and (rendered.get("status"), rendered.get("observedGeneration")) == ("True", generation)
    ):
        pin = Pin(spec=spec)  # rendered before there were facts at all
    if pin is None or pin.spec != spec:
        if known.blueprint is None and known.wait > 0:
            return Choice(pin=Pin(spec=spec), wait=known.wait)
        return Choice(pin=_pin(known, spec, gpu_memory), defaults=known.blueprint, is_new=True)
    if pin.digest is None:
        return Choice(pin=pin, late=known.blueprint)
    if known.blueprint is None:
        kept = recall(pin.facts)
        return Choice(pin=pin, defaults=kept, lost=kept is None)
    fresh = _pin(known, spec, pin.gpu_memory)
    if known.blueprint.digest != pin.digest:
        # Somebody had the model read anew, and it is another one.
        return Choice(pin=fresh, defaults=known.blueprint)
    # A later version of the operator may read more from the same files.
    return Choice(pin=replace(fresh, facts=pin.facts or fresh.facts), defaults=recall(pin.facts) or known.blueprint)


def _pin(known: Known, spec: str, gpu_memory: Mapping[str, int]) -> Pin:
    return Pin(
        spec=spec,
        name=known.name,
        digest=known.blueprint.digest if known.blueprint else None,
        facts=known.packed,
        source=json.dumps(known.source, sort_keys=True) if known.source else "",
        gpu_memory=gpu_memory,
    )


def _same_source(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two `spec.from` are the same, whatever of the defaults is written out."""
    if one == other:
        return True
    try:
        read = [
            BlueprintSource.model_validate(each, by_alias=True, by_name=False, extra="ignore") for each in (one, other)
        ]
    except ValidationError:
        return False
    return read[0] == read[1]


class FactsReader:
    """Looks up what is known of a deployment's model. `need` hears of each ModelBlueprint that has to be made."""

    def __init__(
        self,
        cache: Cache,
        *,
        uses: Uses,
        probes: Probes,
        nodes: GpuNodes,
        clock: Clock,
        need: Callable[[Ref], None],
    ) -> None:
        self._cache = cache
        self._uses = uses
        self._probes = probes
        self._nodes = nodes
        self._clock = clock
        self._need = need
        self._since: dict[Ref, tuple[str, str, float]] = {}
        self._unpacked: dict[str, Blueprint] = {}
        self._told: dict[Ref, _Told] = {}

    def look(self, entry: Entry, spec: str) -> Known:
        """What is known now."""
        ref = self._uses.blueprint(entry)
        if ref is None:
            return Known(reason="ModelNotRead", message="the files of this model are not known before it runs")
        found = self._cache.get(ref)
        if found is None or found.deleting:
            self._told.pop(ref, None)
            if not self._uses.owners(ref):
                message = f"there is no ModelBlueprint {ref.name} in namespace {ref.namespace}"
                return Known(name=ref.name, reason="BlueprintNotFound", message=message)
            if self._probes.stage(ref) == "stuck":
                message = "the operator may not create its ModelBlueprint: the operator's log says why"
                return Known(name=ref.name, reason="BlueprintRefused", message=message)
            self._need(ref)
            wait = self._left(entry, ref, spec)
            return Known(name=ref.name, reason="Probing", message="the model is about to be read", wait=wait)
        return self._of(entry, found, spec)

    async def gpu_memory(self, deployment: ModelDeployment) -> Mapping[str, int]:
        """Bytes of a role's GPUs by the nodes' labels, as far as they may be read."""
        if not any(uses_gpu(deployment, role) for role in deployment.role_names()):
            return {}
        return gpu_memory_of(deployment, await self._nodes.labels())

    def used_anew(self, entry: Entry) -> None:
        """A spec is rendered for the first time: the model should be looked at again, if that was long ago."""
        ref = self._uses.blueprint(entry)
        if ref is not None:
            self._probes.ask(ref)
            self._need(ref)

    def forget(self, deployment: Ref) -> None:
        """Drops what is remembered of a deployment that is gone."""
        self._since.pop(deployment, None)
        self._uses.forget(deployment)

    def recall(self, facts: str) -> Blueprint | None:
        """The facts of a pin; None where it has none, or they are not as we wrote them."""
        try:
            return self._unpack(facts) if facts else None
        except Refused:
            return None

    def _of(self, entry: Entry, found: Entry, spec: str) -> Known:
        told = self._read(found)
        name = found.ref.name
        source = told.source if self._uses.is_named_by(entry) else None
        if source is None and not _same_source(told.source, self._uses.source(entry)):
            message = f"ModelBlueprint {name} is of another source: delete it, and the operator makes the right one"
            return Known(name=name, reason="BlueprintOfAnother", message=message)
        about = f"ModelBlueprint {name}: {told.message}"
        if told.facts:
            note = about if told.status == "False" else ""
            try:
                blueprint = self._unpack(told.facts)
            except Refused as refused:
                return Known(name=name, source=source, reason="FactsUnreadable", message=str(refused))
            return Known(name=name, source=source, blueprint=blueprint, packed=told.facts, message=note)
        wait = 0.0 if told.status == "False" else self._left(entry, found.ref, spec)
        return Known(name=name, source=source, reason=told.reason, message=about, wait=wait)

    def _read(self, blueprint: Entry) -> _Told:
        known = self._told.get(blueprint.ref)
        if known is not None and (known.uid, known.version) == (blueprint.uid, blueprint.version):
            return known
        document = blueprint.object
        status = document.get("status") or {}
        parsed = find(status.get("conditions"), "Parsed") or {}
        told = self._told[blueprint.ref] = _Told(
            uid=blueprint.uid,
            version=blueprint.version,
            source=(document.get("spec") or {}).get("from") or {},
            facts=status.get("facts") or "",
            status=str(parsed.get("status", "")),
            reason=str(parsed.get("reason") or "Probing"),
            message=str(parsed.get("message", "")),
        )
        return told

    def _left(self, entry: Entry, blueprint: Ref, spec: str) -> float:
        """Seconds in which facts may still come, while the pod that reads them gets on."""
        now = self._clock.monotonic()
        since = self._since.get(entry.ref)
        if since is None or since[:2] != (entry.uid, spec):
            since = self._since[entry.ref] = (entry.uid, spec, now)
        stage = self._probes.stage(blueprint)
        # What a pod that is over has told is about to be in the status.
        most = {"starting": STARTING_SECONDS, "stuck": 0.0}.get(stage, RUNNING_SECONDS)
        return max(0.0, since[2] + most - now)

    def _unpack(self, text: str) -> Blueprint:
        """Kept: unpacking takes a millisecond, and all deployments of a model have the same."""
        known = self._unpacked.get(text)
        if known is None:
            if len(self._unpacked) >= 1000:
                self._unpacked.clear()
            known = self._unpacked[text] = unpack(text, "status.facts")
        return known
