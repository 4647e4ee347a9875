"""What should be in the cluster for one deployment: the objects of `build()`, kept as JSON text with their hashes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic.alias_generators import to_camel
from pydantic_core import from_json

from tandem.api.deployment import ModelDeployment
from tandem.api.problems import Refused
from tandem.blueprint.model import Blueprint
from tandem.kube.cache import Ref
from tandem.kube.resources import WORKLOAD_KINDS
from tandem.manifests import names
from tandem.manifests.build import build
from tandem.manifests.cluster import Cluster
from tandem.manifests.fitting import RoleFit, Unjudged, judge_roles
from tandem.manifests.model import Build


@dataclass(frozen=True, slots=True)
class Desired:
    """One object. `digest` covers all of it but a workload's replicas, which move during a rollout."""

    ref: Ref
    digest: str
    body: bytes

    @property
    def object(self) -> dict[str, Any]:
        """The object; a fresh copy."""
        parsed: dict[str, Any] = from_json(self.body, cache_strings="all")
        return parsed


@dataclass(frozen=True, slots=True)
class Rendered:
    """All objects of a deployment. `workers` names the workload (Deployment or LeaderWorkerSet) of each role; `router`
    is the router's Deployment. `of_roles` are the objects that belong to one role; `fits` the verdict on each."""

    revision: str
    objects: tuple[Desired, ...]
    workers: Mapping[str, str]
    router: Desired
    parameters: bytes
    warnings: tuple[str, ...]
    of_roles: frozenset[Ref] = frozenset()
    fits: tuple[RoleFit | Unjudged, ...] = ()

    def without_roles(self) -> Rendered:
        """What does not depend on the model's facts."""
        return replace(self, objects=tuple(found for found in self.objects if found.ref not in self.of_roles))

    @property
    def worker_loads(self) -> tuple[Desired, ...]:
        """The workloads of the roles."""
        names = set(self.workers.values())
        return tuple(found for found in self.objects if found.ref.kind in WORKLOAD_KINDS and found.ref.name in names)

    @property
    def parameter_statuses(self) -> list[dict[str, str]]:
        """The effective parameters, as the status shows them."""
        parsed: list[dict[str, str]] = from_json(self.parameters)
        return parsed


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelKnowledge:
    """What is known of a model: `defaults` give parameters, `late` only judges what was rendered without. `gpu_memory`
    are the bytes of one GPU, by role; `late_memory` the same where it came too late to give parameters."""

    defaults: Blueprint | None = None
    late: Blueprint | None = None
    gpu_memory: Mapping[str, int] = field(default_factory=dict)
    late_memory: Mapping[str, int] = field(default_factory=dict)

    @property
    def key(self) -> object:
        """Equal for what renders and is judged alike."""
        digests = (each.digest if each else None for each in (self.defaults, self.late))
        return (*digests, *sorted(self.gpu_memory.items()), None, *sorted(self.late_memory.items()))


NOTHING_KNOWN = ModelKnowledge()


@dataclass(frozen=True, slots=True)
class _Memo:
    key: object
    result: Rendered | Refused


class Renderer:
    """Calls `build()` once per spec: status changes of children, by far the most events, need no rendering."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._memos: dict[tuple[str, str], _Memo] = {}

    def render(
        self,
        deployment: ModelDeployment,
        *,
        rules: Mapping[str, str],
        templates: Mapping[str, str],
        known: ModelKnowledge = NOTHING_KNOWN,
    ) -> Rendered:
        """The objects of `deployment`, with the texts of the ConfigMaps that it names; raises `Refused`."""
        metadata = deployment.metadata
        texts = hash((tuple(sorted(rules.items())), tuple(sorted(templates.items()))))
        key = (metadata.uid, metadata.generation, texts, deployment.spec.model, known.key)
        place = (metadata.namespace, metadata.name)
        memo = self._memos.get(place)
        if memo is None or memo.key != key:
            memo = _Memo(key, self._build(deployment, rules, templates, known))
            self._memos[place] = memo
        if isinstance(memo.result, Refused):
            raise Refused(memo.result.problems)
        return memo.result

    def serve(self, apis: frozenset[str]) -> None:
        """From now on these are the optional APIs that the cluster serves."""
        if apis != self._cluster.apis:
            self._cluster = replace(self._cluster, apis=apis)
            self._memos.clear()

    def forget(self, namespace: str, name: str) -> None:
        """Drops what is remembered of a deployment that is gone."""
        self._memos.pop((namespace, name), None)

    def _build(
        self,
        deployment: ModelDeployment,
        rules: Mapping[str, str],
        templates: Mapping[str, str],
        known: ModelKnowledge,
    ) -> Rendered | Refused:
        cluster = replace(self._cluster, rules=rules, templates=templates, gpu_memory=known.gpu_memory)
        try:
            built = build(deployment, blueprint=known.defaults, cluster=cluster)
            fits, model = built.fits, known.late or known.defaults
            if model is not None and (known.late is not None or known.late_memory):
                fits = judge_roles(
                    deployment,
                    built.parameters,
                    model,
                    gpu_memory=known.late_memory or known.gpu_memory,
                    gpus=cluster.gpus_per_node,
                    settled=True,
                )
        except Refused as refused:
            return refused
        return replace(compact(built), fits=fits)


def compact(built: Build) -> Rendered:
    """A build in the form that is kept and planned with."""
    workloads = [obj for obj in built.objects if obj["kind"] in WORKLOAD_KINDS]
    roles = [(obj["metadata"]["labels"].get(names.LABEL_ROLE), obj) for obj in workloads]
    parameters = [
        {
            "role": value.role,
            "name": to_camel(value.name),
            "value": _text(value.value),
            "source": value.source,
            "detail": value.detail,
        }
        for value in (*built.parameters, *(deadline.in_effect for deadline in built.deadlines))
    ]
    return Rendered(
        revision=built.revision,
        objects=tuple(_desired(obj) for obj in built.objects),
        workers={role: obj["metadata"]["name"] for role, obj in roles if role},
        router=next(_desired(obj) for role, obj in roles if not role),
        parameters=json.dumps(parameters).encode(),
        # A newer API server may know the field; one that does not refuses the pod's template in its own words.
        warnings=(*built.warnings, *map(str, built.unknown_fields)),
        of_roles=frozenset(_ref(obj) for obj in built.objects if names.LABEL_ROLE in obj["metadata"]["labels"]),
    )


def digest(obj: Mapping[str, Any]) -> str:
    """A short hash of what we want an object to be."""
    if obj["kind"] in WORKLOAD_KINDS:
        obj = {**obj, "spec": {key: value for key, value in obj["spec"].items() if key != "replicas"}}
    return hashlib.sha256(json.dumps(obj, sort_keys=True).encode()).hexdigest()[:12]


def _desired(obj: Mapping[str, Any]) -> Desired:
    return Desired(_ref(obj), digest(obj), json.dumps(obj).encode())


def _ref(obj: Mapping[str, Any]) -> Ref:
    return Ref(obj["kind"], obj["metadata"]["namespace"], obj["metadata"]["name"])


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return ",".join(str(item) for item in value) if isinstance(value, tuple) else str(value)
