"""What every object has in common: names, labels, owner."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tandem.api.base import API_VERSION
from tandem.api.deployment import ModelDeployment
from tandem.manifests import names
from tandem.manifests.model import KubernetesObject


@dataclass(frozen=True, slots=True)
class Scope:
    """The deployment that objects are made for; without a uid (a file never applied) they have no owner reference."""

    name: str
    namespace: str
    uid: str

    @staticmethod
    def of(deployment: ModelDeployment) -> Scope:
        """The scope of a deployment."""
        meta = deployment.metadata
        return Scope(meta.name, meta.namespace, meta.uid)

    def head(self, api_version: str, kind: str, name: str, labels: Mapping[str, str]) -> KubernetesObject:
        """apiVersion, kind and metadata of an object."""
        metadata: dict[str, Any] = {"name": name, "namespace": self.namespace, "labels": dict(labels)}
        if self.uid:
            metadata["ownerReferences"] = [self._owner()]
        return {"apiVersion": api_version, "kind": kind, "metadata": metadata}

    def labels(self, component: str) -> dict[str, str]:
        """The labels of a component of this deployment."""
        return names.common_labels(self.name, component)

    def _owner(self) -> dict[str, Any]:
        return {
            "apiVersion": API_VERSION,
            "kind": "ModelDeployment",
            "name": self.name,
            "uid": self.uid,
            "controller": True,
            "blockOwnerDeletion": True,
        }
