"""Where the weights come from: what the worker is told, what its pod mounts, and what identifies the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tandem.api.deployment import ModelDeployment, ModelSource
from tandem.api.problems import refuse
from tandem.rendering.pipeline import ModelFacts

MODELS_DIR = "/models"
CACHE_DIR = "/cache"
HUB_HOME = f"{CACHE_DIR}/huggingface"
_MODEL_VOLUME = "model"
_CACHE_VOLUME = "cache"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelAccess:
    """How a worker's pod reaches the model.

    `identity` names the model; it is a part of the revision. `facts` are what the worker is told.
    """

    identity: str
    facts: ModelFacts
    volumes: tuple[dict[str, Any], ...] = ()
    mounts: tuple[dict[str, Any], ...] = ()
    env: tuple[dict[str, Any], ...] = field(default=())


def with_weights(deployment: ModelDeployment, source: Mapping[str, Any] | None, missing: str) -> ModelDeployment:
    """A deployment that refers to a ModelBlueprint, with the weights that the blueprint's `spec.from` names; raises
    `Refused` where there is none (`missing` says so) or it names none. Others are given back as they are."""
    model = deployment.spec.model
    if model.blueprint_ref is None:
        return deployment
    path, name = "spec.model.blueprintRef.name", model.blueprint_ref.name
    if source is None:
        raise refuse(path, name, missing, "Create it, or name one that exists.")
    weights = {key: source[key] for key in ("pvc", "hub") if source.get(key) is not None}
    if not weights:
        fix = "Name one with spec.from.pvc or spec.from.hub, or give spec.model.pvc or hub here."
        raise refuse(path, name, "this ModelBlueprint has the facts of a model, and no weights", fix)
    read = ModelSource.model_validate(weights, by_alias=True, by_name=False, extra="ignore")
    found = read.model_copy(update={"served_name": model.served_name})
    return deployment.model_copy(update={"spec": deployment.spec.model_copy(update={"model": found})})


def model_access(deployment: ModelDeployment) -> ModelAccess:
    """Access to the deployment's model; raises `Refused` for sources that are not served yet."""
    model = deployment.spec.model
    if model.pvc is not None:
        claim, path = model.pvc.claim_name, model.pvc.path
        return ModelAccess(
            identity=f"pvc:{claim}/{path}",
            facts=ModelFacts(
                path=f"{MODELS_DIR}/{path}" if path else MODELS_DIR, served_name=deployment.served_name, revision=None
            ),
            volumes=({"name": _MODEL_VOLUME, "persistentVolumeClaim": {"claimName": claim, "readOnly": True}},),
            mounts=({"name": _MODEL_VOLUME, "mountPath": MODELS_DIR, "readOnly": True},),
            env=({"name": "HF_HUB_OFFLINE", "value": "1"},),
        )
    if model.hub is not None:
        env: list[dict[str, Any]] = [{"name": "HF_HOME", "value": HUB_HOME}]
        secret = model.hub.token_secret_ref
        if secret is not None:
            reference = {"secretKeyRef": {"name": secret.name, "key": secret.key}}
            env.append({"name": "HF_TOKEN", "valueFrom": reference})
        return ModelAccess(
            identity=f"hub:{model.hub.repo}@{model.hub.revision}",
            facts=ModelFacts(path=model.hub.repo, served_name=deployment.served_name, revision=model.hub.revision),
            volumes=({"name": _CACHE_VOLUME, "emptyDir": {}},),
            mounts=({"name": _CACHE_VOLUME, "mountPath": CACHE_DIR},),
            env=tuple(env),
        )
    field_name, given = ("blueprintRef", model.blueprint_ref) if model.blueprint_ref else ("jobRef", model.job_ref)
    name = given.name if given else None
    fix = "Use spec.model.pvc for weights on a volume, or spec.model.hub for a repository."
    raise refuse(f"spec.model.{field_name}", name, "this model source is not served yet", fix)
