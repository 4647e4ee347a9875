"""Engine files inside the pod itself instead of a ConfigMap (`k8s_engine_mode: inline`). Pure.

The file is an annotation of the pod, which the kubelet mounts at the same place: the same bytes, and a changed file is
a changed pod template.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tandem.api.base import API_GROUP
from tandem.api.problems import refuse
from tandem.manifests import Build

_PREFIX = f"files.{API_GROUP}/"
# All annotations of an object together, as the API server counts them.
_MAX_BYTES = 256 * 1024


def inlined(built: Build) -> Build:
    """The build without the ConfigMaps of engine files; raises `Refused` for files that do not fit into a pod."""
    files = {item["metadata"]["name"]: item["data"] for item in built.objects if item["kind"] == "ConfigMap"}
    objects = (
        _with_files(item, files) if item["kind"] == "Deployment" else item
        for item in built.objects
        if item["kind"] != "ConfigMap"
    )
    return replace(built, objects=tuple(objects))


def _with_files(deployment: Mapping[str, Any], files: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    changed: dict[str, Any] = copy.deepcopy(dict(deployment))
    template = changed["spec"]["template"]
    for volume in template["spec"].get("volumes", ()):
        name = str((volume.get("configMap") or {}).get("name"))
        if name not in files:
            continue
        if sum(len(text.encode()) for text in files[name].values()) > _MAX_BYTES:
            fix = "Use K8sConfig.k8s_engine_mode: configmap."
            raise refuse("K8sConfig.k8s_engine_mode", "inline", "the engine's files do not fit into a pod", fix)
        del volume["configMap"]
        volume["downwardAPI"] = {"items": [_item(file) for file in files[name]]}
        annotations = template["metadata"].setdefault("annotations", {})
        annotations |= {_PREFIX + file: text for file, text in files[name].items()}
    return changed


def _item(name: str) -> dict[str, Any]:
    return {"path": name, "fieldRef": {"fieldPath": f"metadata.annotations['{_PREFIX}{name}']"}}
