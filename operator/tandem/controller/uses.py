"""Which ModelDeployments use which ModelBlueprint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from tandem.api.deployment import ModelSource
from tandem.kube.cache import Cache, Entry, Ref
from tandem.kube.resources import MODEL_BLUEPRINT, MODEL_DEPLOYMENT
from tandem.manifests.probe import blueprint_name, blueprint_source


@dataclass(frozen=True, slots=True)
class _Use:
    """What one spec uses; looked at for every deployment of a namespace when somebody asks for a blueprint's users."""

    uid: str
    generation: int
    model: ModelSource | None = None
    blueprint: Ref | None = None


class Uses:
    """Worked out from the specs in the cache, each read once. `changed` hears of a ModelBlueprint that a deployment
    has begun or ceased to use."""

    def __init__(self, cache: Cache, *, changed: Callable[[Ref], None]) -> None:
        self._cache = cache
        self._changed = changed
        self._known: dict[Ref, _Use] = {}

    def blueprint(self, entry: Entry) -> Ref | None:
        """The ModelBlueprint of a deployment; None where its model has none."""
        return self._use(entry).blueprint

    def users(self, blueprint: Ref) -> Sequence[Entry]:
        """The deployments that use it, by name."""
        entries = self._cache.of_kind(MODEL_DEPLOYMENT.kind, blueprint.namespace)
        found = (entry for entry in entries if not entry.deleting and self.blueprint(entry) == blueprint)
        return sorted(found, key=lambda entry: entry.ref.name)

    def owners(self, blueprint: Ref) -> Sequence[Entry]:
        """Those that it is made for: they do not name it themselves."""
        return [entry for entry in self.users(blueprint) if self._source(entry) is not None]

    def is_named_by(self, deployment: Entry) -> bool:
        """Whether a deployment names its ModelBlueprint itself, whose weights are then the deployment's."""
        model = self._use(deployment).model
        return model is not None and model.blueprint_ref is not None

    def source(self, owner: Entry) -> dict[str, Any]:
        """`spec.from` of the ModelBlueprint of one of its owners."""
        return self._source(owner) or {}

    def forget(self, deployment: Ref) -> None:
        """Drops what is remembered of a deployment that is gone."""
        self._known.pop(deployment, None)

    def _source(self, entry: Entry) -> dict[str, Any] | None:
        model = self._use(entry).model
        return blueprint_source(model) if model else None

    def _use(self, entry: Entry) -> _Use:
        known = self._known.get(entry.ref)
        if known is not None and (known.uid, known.generation) == (entry.uid, entry.generation):
            return known
        model = _read(entry)
        name = blueprint_name(model) if model else None
        blueprint = None if name is None else Ref(MODEL_BLUEPRINT.kind, entry.ref.namespace, name)
        use = self._known[entry.ref] = _Use(entry.uid, entry.generation, model, blueprint)
        before = known.blueprint if known else None
        if before != blueprint:
            for changed in filter(None, (before, blueprint)):
                self._changed(changed)
        return use


def _read(entry: Entry) -> ModelSource | None:
    if entry.too_large:
        return None
    try:
        model = (entry.object.get("spec") or {}).get("model")
        return ModelSource.model_validate(model, by_alias=True, by_name=False, extra="ignore")
    except ValidationError:
        return None
