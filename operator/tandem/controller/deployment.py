"""ModelDeployment: observe → build → plan → apply → status, for one deployment at a time."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from tandem.api.deployment import ModelDeployment
from tandem.api.load import parse_resource
from tandem.api.problems import Problem, Refused
from tandem.controller.apply import Applier, Outcome
from tandem.controller.contest import managers_of
from tandem.controller.desired import ModelKnowledge, Rendered, Renderer
from tandem.controller.facts import FactsReader, Pin, choose, pin_in, pinned_source, spec_hash
from tandem.controller.fits import Judged, judged
from tandem.controller.hindrance import hindrance
from tandem.controller.hints import HintReader
from tandem.controller.ledger import Ledger, Ledgers
from tandem.controller.loading import LoadingReader
from tandem.controller.observed import Observed, observe
from tandem.controller.plan import Plan, make_plan
from tandem.controller.status import Situation, next_status
from tandem.controller.statuswriter import StatusWriter
from tandem.controller.takeover import Takeover, plan_takeover
from tandem.controller.texts import ConfigTexts
from tandem.controller.verdict import Verdict
from tandem.kube.cache import LARGEST, Cache, Entry, Ref
from tandem.kube.client import Client
from tandem.kube.clock import Clock
from tandem.kube.resources import WORKLOAD_KINDS
from tandem.manifests.names import router_name
from tandem.manifests.sources import with_weights

# Objects of others that stand in the way carry no label of ours: nobody tells when they are gone.
BLOCKED_SECONDS = 10.0
# Failures in a row that are taken for passing ones. The API server also answers 500 to some texts it cannot convert.
QUIET_TRIES = 4

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Spec:
    """A resource as it was read, with the hash of its spec."""

    uid: str
    generation: int
    deployment: ModelDeployment
    hash: str


@dataclass(frozen=True, slots=True)
class _Wish:
    """What a spec asks for: the objects, or the problems that it was refused for. `judged` says whether they fit,
    `pin` what they were rendered with. `wait`: seconds in which facts may come that the workers depend on."""

    deployment: ModelDeployment | None = None
    rendered: Rendered | None = None
    problems: tuple[Problem, ...] = ()
    judged: Judged | None = None
    pin: Pin | None = None
    wait: float = 0.0
    is_first: bool = False


@dataclass(frozen=True, slots=True)
class _Round:
    """What was decided and done for a wish."""

    takeover: Takeover = field(default_factory=Takeover)
    plan: Plan = field(default_factory=Plan)
    outcome: Outcome = field(default_factory=Outcome)
    repair_after: float | None = None


class DeploymentReconciler:
    """Brings one ModelDeployment after the other to what its spec says; safe to call at any time, for any reason."""

    def __init__(
        self,
        *,
        client: Client,
        cache: Cache,
        renderer: Renderer,
        statuses: StatusWriter,
        texts: ConfigTexts,
        loading: LoadingReader,
        facts: FactsReader,
        clock: Clock,
        cluster_domain: str,
    ) -> None:
        self._client = client
        self._cache = cache
        self._renderer = renderer
        self._statuses = statuses
        self._loading = loading
        self._facts = facts
        self._clock = clock
        self._cluster_domain = cluster_domain
        self._applier = Applier(client, cache)
        self._texts = texts
        self._hints = HintReader(client, clock)
        self._ledgers = Ledgers()
        self._quiet: dict[Ref, int] = {}
        self._ending: dict[Ref, str] = {}
        self._specs: dict[Ref, _Spec] = {}
        self._pins: dict[Ref, tuple[str, Pin]] = {}

    async def reconcile(self, ref: Ref) -> Verdict:
        """One round for the deployment `ref`. Raises ApiError and Fenced."""
        entry = self._cache.get(ref)
        if entry is None or entry.deleting:
            # What it owned goes by its owner references; nothing of ours holds it back.
            self._forget(ref)
            return Verdict()
        if self._ending.get(ref) == entry.uid:
            return Verdict()
        document = entry.object
        wish = await self._wish(entry, document)
        observed = self._observe(ref, entry)
        look_again = await self._hints.look(ref, observed.stuck)
        ask_again = self._loading.look(
            ref,
            workers=observed.worker_pods,
            routers=observed.router_pods,
            hands_off=_tells_of_handoffs(wish.deployment),
        )
        done = _Round()
        if wish.rendered is not None and wish.deployment is not None:
            ledger = self._ledgers.of(entry, document)
            done = await self._act(entry, wish, observed, ledger)
            if any(failure.error.is_namespace_ending for failure in done.outcome.failures):
                # Every child that goes would have us try again what cannot be done.
                self._ending[ref] = entry.uid
                return Verdict()
            if not done.plan.is_empty:
                observed = self._observe(ref, entry)
            if wish.is_first and not wish.wait:
                self._facts.used_anew(entry)
        write_again = None
        if not self._keeps_quiet(ref, done.outcome):
            situation = self._situation(entry, document, wish, observed, done)
            status = next_status(situation, document.get("status") or {}, now=self._clock.now())
            write_again = await self._statuses.write(entry, document, status)
        left_alone = observed.until_left_alone(self._clock.now())
        waits = [look_again, ask_again, write_again, done.repair_after, left_alone, wish.wait or None]
        return _verdict(done, waits)

    async def _wish(self, entry: Entry, document: Mapping[str, Any]) -> _Wish:
        """Reads the spec, and renders it with what is known of its model."""
        deployment: ModelDeployment | None = None
        try:
            spec = self._parsed(entry, document)
            deployment, hashed = spec.deployment, spec.hash
            rules, templates = await self._read_texts(entry.ref, deployment)
            known, pin = self._facts.look(entry, hashed), self._pinned(entry, document)
            source = known.source if known.source is not None else pinned_source(pin, hashed)
            deployment = with_weights(deployment, source, known.message)
            gpu_memory = await self._facts.gpu_memory(deployment)
            choice = choose(
                known,
                spec=hashed,
                status=document.get("status") or {},
                generation=entry.generation,
                has_workers=self._has_workers(entry),
                gpu_memory=gpu_memory,
                recall=self._facts.recall,
                pinned=pin,
            )
            late_memory = {} if choice.is_new or choice.pin.gpu_memory else gpu_memory
            rendered = self._renderer.render(
                deployment,
                rules=rules,
                templates=templates,
                known=ModelKnowledge(
                    defaults=choice.defaults,
                    late=choice.late,
                    gpu_memory=choice.pin.gpu_memory,
                    late_memory=late_memory,
                ),
            )
        except Refused as refused:
            return _Wish(deployment=deployment, problems=refused.problems)
        late = choice.defaults is None or bool(late_memory)
        verdict = judged(rendered.fits, known, late=late, overridden=bool(deployment.spec.override_fits))
        if verdict.blocks or choice.lost:
            return _Wish(deployment=deployment, judged=verdict)
        if not choice.wait:
            self._pins[entry.ref] = (entry.uid, choice.pin)
        return _Wish(
            deployment=deployment,
            rendered=rendered,
            judged=verdict,
            pin=choice.pin,
            wait=choice.wait,
            is_first=choice.is_new,
        )

    def _parsed(self, entry: Entry, document: Mapping[str, Any]) -> _Spec:
        """The resource with its present spec, read once per spec. Raises `Refused`."""
        known = self._specs.get(entry.ref)
        if known is not None and (known.uid, known.generation) == (entry.uid, entry.generation):
            return known
        if entry.too_large:
            reason = f"takes {entry.too_large // 1024} KiB as JSON, and at most {LARGEST // 1024} KiB are read"
            raise Refused(
                [Problem("spec", "", reason, "Keep what is large in ConfigMaps or on a volume, and name it.")]
            )
        found = _Spec(entry.uid, entry.generation, _parse(entry, document), spec_hash(document["spec"]))
        self._specs[entry.ref] = found
        return found

    async def _read_texts(self, ref: Ref, deployment: ModelDeployment) -> tuple[Mapping[str, str], Mapping[str, str]]:
        """The rules and templates of the ConfigMaps that are named; raises `Refused` for one that is not there."""
        spec = deployment.spec
        named: dict[str, str] = {}
        if spec.rules is not None and spec.rules.config_map_ref is not None:
            named["rules"] = spec.rules.config_map_ref.name
        if spec.templates is not None:
            named["templates"] = spec.templates.config_map_ref.name
        self._texts.names(ref, named.values())
        found = {
            field: await self._texts.read(ref.namespace, name, path=f"spec.{field}.configMapRef.name")
            for field, name in named.items()
        }
        return found.get("rules", {}), found.get("templates", {})

    def _observe(self, ref: Ref, entry: Entry) -> Observed:
        return observe(self._cache.children(ref.namespace, ref.name), entry.uid)

    def _pinned(self, entry: Entry, document: Mapping[str, Any]) -> Pin | None:
        """What was rendered with last: the status may be behind."""
        uid, pin = self._pins.get(entry.ref, ("", None))
        return pin if pin is not None and uid == entry.uid else pin_in(document.get("status") or {})

    def _has_workers(self, entry: Entry) -> bool:
        """Whether workloads beside the router's are there."""
        router = router_name(entry.ref.name)
        children = self._cache.children(entry.ref.namespace, entry.ref.name)
        return any(child.ref.kind in WORKLOAD_KINDS and child.ref.name != router for child in children)

    async def _act(self, entry: Entry, wish: _Wish, observed: Observed, ledger: Ledger) -> _Round:
        """Plans what is due now and does it."""
        deployment, rendered = wish.deployment, wish.rendered
        if deployment is None or rendered is None or (wish.wait and observed.workers):
            return _Round()
        if wish.wait:
            rendered = rendered.without_roles()
        rollout = deployment.spec.rollout
        has_older = any(workload.name not in rendered.workers.values() for workload in observed.workers)
        takeover = plan_takeover(
            declared=_declared(deployment),
            workers=rendered.workers,
            router=rendered.router.object if has_older else None,
            observed=observed,
            max_surge=rollout.max_surge if rollout else 1,
            hints=self._hints.hints(entry.ref),
            now=self._clock.now(),
        )
        plan = make_plan(rendered, observed, takeover, ledger)
        plan, wait = ledger.repairs.due(plan, applied=ledger.applied, now=self._clock.monotonic())
        for contest in ledger.repairs.unnamed:
            # Before the object is put back: now it still is as the other one left it.
            ledger.repairs.name(contest, await managers_of(self._client, contest))
        outcome = Outcome()
        if not plan.is_empty:
            outcome = await self._applier.carry_out(plan, owner_uid=entry.uid)
            for failure in outcome.failures:
                ledger.repairs.failed(failure.ref)
        ledger.note(rendered, plan, outcome, held=rendered.router.ref if takeover.hold_router else None)
        return _Round(takeover, plan, outcome, wait)

    def _situation(
        self, entry: Entry, document: Mapping[str, Any], wish: _Wish, observed: Observed, done: _Round
    ) -> Situation:
        metadata, ledger = document["metadata"], self._ledgers.of(entry, document)
        return Situation(
            name=metadata["name"],
            namespace=metadata["namespace"],
            generation=metadata.get("generation", 0),
            declared=_declared(wish.deployment) if wish.rendered and wish.deployment else _present(observed),
            rendered=wish.rendered,
            problems=wish.problems,
            judged=wish.judged,
            pin=wish.pin,
            waits=bool(wish.wait),
            observed=observed,
            hindrance=hindrance(done.plan, done.outcome),
            contests=ledger.repairs.contests,
            applied=ledger.applied,
            hints=self._hints.hints(entry.ref),
            told=self._loading.known(entry.ref),
            hands_off=_tells_of_handoffs(wish.deployment),
            taking_over=not done.takeover.done,
            cluster_domain=self._cluster_domain,
        )

    def _keeps_quiet(self, ref: Ref, outcome: Outcome) -> bool:
        """Whether what went wrong will most likely have passed by the next try: told only when it does not pass."""
        if not _is_passing(outcome):
            self._quiet.pop(ref, None)
            return False
        tries = self._quiet[ref] = self._quiet.get(ref, 0) + 1
        if tries == QUIET_TRIES:
            logger.warning("%s: writes keep failing: %s", ref, [str(failure.error) for failure in outcome.failures])
        return tries < QUIET_TRIES

    def _forget(self, ref: Ref) -> None:
        self._quiet.pop(ref, None)
        self._ending.pop(ref, None)
        self._specs.pop(ref, None)
        self._pins.pop(ref, None)
        self._renderer.forget(ref.namespace, ref.name)
        self._statuses.forget(ref)
        self._ledgers.forget(ref)
        self._hints.forget(ref)
        self._texts.names(ref, ())
        self._loading.forget(ref)
        self._facts.forget(ref)


def _parse(entry: Entry, document: Mapping[str, Any]) -> ModelDeployment:
    """The resource; fields that this version does not know (a newer CRD may) are passed over. Raises `Refused`."""
    try:
        return ModelDeployment.model_validate_json(entry.body, by_alias=True, by_name=False, extra="ignore")
    except ValidationError:
        parsed = parse_resource(dict(document))
        if not isinstance(parsed, ModelDeployment):
            raise TypeError(f"{entry.ref} was read as a {parsed.kind}") from None
        return parsed


def _declared(deployment: ModelDeployment) -> dict[str, int]:
    return {role: deployment.replicas(role) for role in deployment.role_names()}


def _tells_of_handoffs(deployment: ModelDeployment | None) -> bool:
    """Whether its decode workers tell of KV that they refuse."""
    return deployment is not None and (deployment.spec.mode, deployment.spec.backend) == ("disagg", "torch")


def _present(observed: Observed) -> dict[str, int]:
    """Workers per role as they are kept while the spec cannot be followed."""
    counts: dict[str, int] = {}
    for workload in observed.workers:
        counts[workload.role] = counts.get(workload.role, 0) + workload.replicas
    return counts


def _is_passing(outcome: Outcome) -> bool:
    """Whether what went wrong will have passed by the next try, and is not worth telling."""
    return outcome.stale or any(failure.error.is_transient for failure in outcome.failures)


def _verdict(done: _Round, waits: list[float | None]) -> Verdict:
    outcome = done.outcome
    if done.plan.leads_on:
        waits = [*waits, 0.0]
    again = min((wait for wait in waits if wait is not None), default=None)
    if _is_passing(outcome):
        asked = max((failure.error.retry_after or 0.0 for failure in outcome.failures), default=0.0)
        return Verdict(failed=True, at_least=asked, again_after=again)
    if outcome.failures:
        return Verdict(failed=True, at_least=BLOCKED_SECONDS, again_after=again)
    if outcome.not_ours or done.plan.not_ours:
        # A steady look, not a back-off: every event of a child would count as one more failure and put it off.
        return Verdict(again_after=min(BLOCKED_SECONDS, again) if again is not None else BLOCKED_SECONDS)
    return Verdict(again_after=again)
