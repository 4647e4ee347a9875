"""Which ModelDeployments use which ModelBlueprint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pydantic import ValidationError

from tandem.api.deployment import ModelSource
from tandem.kube.cache import Cache, Entry, Ref
from tandem.kube.resources import MODEL_BLUEPRINT, MODEL_DEPLOYMENT
from tandem.manifests.probe import blueprint_name, blueprint_source


class Uses:
    """Worked out from the specs in the cache, each read once. `changed` hears of a ModelBlueprint that a deployment
    has begun or ceased to use."""

    def __init__(self, cache: Cache, *, changed: Callable[[Ref], None]) -> None:
        self._cache = cache
        self._changed = changed
        self._models: dict[Ref, tuple[str, int, ModelSource | None]] = {}

    def blueprint(self, entry: Entry) -> Ref | None:
        """The ModelBlueprint of a deployment; None where its model has none."""
        model = self._model(entry)
        name = blueprint_name(model) if model else None
        return None if name is None else Ref(MODEL_BLUEPRINT.kind, entry.ref.namespace, name)

    def users(self, blueprint: Ref) -> Sequence[Entry]:
        """The deployments that use it, by name."""
        entries = self._cache.of_kind(MODEL_DEPLOYMENT.kind, blueprint.namespace)
        found = (entry for entry in entries if not entry.deleting and self.blueprint(entry) == blueprint)
        return sorted(found, key=lambda entry: entry.ref.name)

    def owners(self, blueprint: Ref) -> Sequence[Entry]:
        """Those that it is made for: they do not name it themselves."""
        return [entry for entry in self.users(blueprint) if self._source(entry) is not None]

    def source(self, owner: Entry) -> dict[str, Any]:
        """`spec.from` of the ModelBlueprint of one of its owners."""
        return self._source(owner) or {}

    def forget(self, deployment: Ref) -> None:
        """Drops what is remembered of a deployment that is gone."""
        self._models.pop(deployment, None)

    def _source(self, entry: Entry) -> dict[str, Any] | None:
        model = self._model(entry)
        return blueprint_source(model) if model else None

    def _model(self, entry: Entry) -> ModelSource | None:
        known = self._models.get(entry.ref)
        if known is not None and known[:2] == (entry.uid, entry.generation):
            return known[2]
        model = _read(entry)
        self._models[entry.ref] = (entry.uid, entry.generation, model)
        before, after = (blueprint_name(each) if each else None for each in (known[2] if known else None, model))
        for name in {before, after} - {None}:
            if before != after:
                self._changed(Ref(MODEL_BLUEPRINT.kind, entry.ref.namespace, str(name)))
        return model


def _read(entry: Entry) -> ModelSource | None:
    if entry.too_large:
        return None
    try:
        model = (entry.object.get("spec") or {}).get("model")
        return ModelSource.model_validate(model, by_alias=True, by_name=False, extra="ignore")
    except ValidationError:
        return None
