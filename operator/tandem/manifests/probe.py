"""The Job that reads a model's config.json where only a pod can: on a claim, or at a hub."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tandem.api import labels
from tandem.api.base import API_VERSION
from tandem.api.deployment import HubSource, ModelSource, PvcSource
from tandem.manifests import names
from tandem.manifests.arguments import as_container_args
from tandem.manifests.model import KubernetesObject
from tandem.manifests.security import pod_security, sealed_container_security

COMPONENT = "probe"
CONTAINER = "probe"
DEADLINE_SECONDS = 120
# A look that failed is repeated when its Job is gone: the volume may have been filled meanwhile.
KEPT_SECONDS = 1800
_MODEL_DIR = "/models"
_RESOURCES = {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": "512Mi"}}


def blueprint_source(model: ModelSource) -> dict[str, Any] | None:
    """`spec.from` of the ModelBlueprint of a deployment's model; None where the deployment names one itself, or a job
    whose artifact nobody has made."""
    if model.pvc is not None:
        return {"pvc": model.pvc.as_manifest()}
    if model.hub is not None:
        return {"hub": model.hub.as_manifest()}
    return None


def blueprint_name(model: ModelSource) -> str | None:
    """Name of the ModelBlueprint that a deployment's model has; the same for all that have the same source."""
    if model.blueprint_ref is not None:
        return model.blueprint_ref.name
    if model.pvc is not None:
        return f"model-{names.short_hash(f'pvc:{model.pvc.claim_name}/{model.pvc.path}', 12)}"
    if model.hub is not None:
        secret = model.hub.token_secret_ref
        token = f"{secret.name}/{secret.key}" if secret else ""
        return f"model-{names.short_hash(f'hub:{model.hub.repo}@{model.hub.revision}#{token}', 12)}"
    return None


def probe_job(
    blueprint: Mapping[str, Any], source: PvcSource | HubSource, *, mark: str, image: str, pulled: Mapping[str, Any]
) -> KubernetesObject:
    """The Job for a ModelBlueprint. Its pod has no account's token, changes nothing, and tells what it found as its
    termination message. `mark` tells looks at different contents apart. `pulled` has imagePullPolicy and
    imagePullSecrets of a deployment that uses the model."""
    metadata = blueprint["metadata"]
    told = {
        "labels": {
            names.LABEL_NAME: names.APP,
            names.LABEL_COMPONENT: COMPONENT,
            names.LABEL_MANAGED_BY: names.APP,
        },
        "annotations": {labels.BLUEPRINT: f"{metadata['name']}/{mark}"},
    }
    owner = {"apiVersion": API_VERSION, "kind": "ModelBlueprint", "name": metadata["name"], "uid": metadata["uid"]}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            # One that is made anew under the same name, or reads another content, has a Job of its own, at once.
            "name": names.shortened(f"{metadata['name'].replace('.', '-')}-{names.short_hash(mark, 5)}"),
            "namespace": metadata["namespace"],
            **told,
            "ownerReferences": [{**owner, "controller": True}],
        },
        "spec": {
            "backoffLimit": 0,
            "ttlSecondsAfterFinished": KEPT_SECONDS,
            "template": {"metadata": told, "spec": _pod(source, image, pulled)},
        },
    }


def _pod(source: PvcSource | HubSource, image: str, pulled: Mapping[str, Any]) -> dict[str, Any]:
    volumes: list[dict[str, Any]] = [{"name": "tmp", "emptyDir": {}}]
    mounts: list[dict[str, Any]] = [{"name": "tmp", "mountPath": "/tmp"}]  # noqa: S108 - in the pod
    env: list[dict[str, Any]] = [{"name": "HOME", "value": "/tmp"}]  # noqa: S108 - in the pod
    if isinstance(source, PvcSource):
        claim = {"claimName": source.claim_name, "readOnly": True}
        volumes.append({"name": "model", "persistentVolumeClaim": claim})
        mounts.append({"name": "model", "mountPath": _MODEL_DIR, "readOnly": True})
        arguments = ["probe", "--directory", f"{_MODEL_DIR}/{source.path}" if source.path else _MODEL_DIR]
    else:
        arguments = ["probe", "--repository", source.repo, "--revision", source.revision]
        secret = source.token_secret_ref
        if secret is not None:
            reference = {"secretKeyRef": {"name": secret.name, "key": secret.key}}
            env.append({"name": "HF_TOKEN", "valueFrom": reference})
    policy, secrets = pulled.get("imagePullPolicy"), pulled.get("imagePullSecrets")
    return {
        **({"imagePullSecrets": secrets} if secrets else {}),
        "restartPolicy": "Never",
        "activeDeadlineSeconds": DEADLINE_SECONDS,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 1,
        "securityContext": pod_security(),
        "containers": [
            {
                "name": CONTAINER,
                "image": image,
                **({"imagePullPolicy": policy} if policy else {}),
                "command": ["tandem"],
                "args": as_container_args(arguments),
                "env": env,
                "resources": {kind: dict(amounts) for kind, amounts in _RESOURCES.items()},
                "volumeMounts": mounts,
                "securityContext": sealed_container_security(),
                "terminationMessagePolicy": "FallbackToLogsOnError",
            }
        ],
        "volumes": volumes,
    }
