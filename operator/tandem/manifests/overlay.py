"""podTemplate: the user's overlay on a worker's pod template, by a small strategic merge.

Maps merge; lists of things with a name merge by that name; other lists replace; null removes. What would cut a pod off from its
Service, its router or its ModelDeployment is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tandem.api.problems import refuse
from tandem.manifests import names
from tandem.manifests.security import container_security

# The field that identifies an item, by the name of the list; as in the published OpenAPI of pods.
_MERGE_KEYS: Mapping[str, tuple[str, ...]] = {
    "containers": ("name",),
    "initContainers": ("name",),
    "ephemeralContainers": ("name",),
    "volumes": ("name",),
    "env": ("name",),
    "ports": ("containerPort", "protocol"),
    "volumeMounts": ("mountPath",),
    "volumeDevices": ("devicePath",),
    "imagePullSecrets": ("name",),
    "hostAliases": ("ip",),
    "topologySpreadConstraints": ("topologyKey", "whenUnsatisfiable"),
    "tolerations": ("key", "operator", "value", "effect"),
}
_DEFAULTS: Mapping[str, str] = {"protocol": "TCP", "operator": "Equal"}
_RESERVED_LABELS = frozenset(
    (
        *(names.LABEL_NAME, names.LABEL_INSTANCE, names.LABEL_COMPONENT, names.LABEL_MANAGED_BY),
        *(names.LABEL_DEPLOYMENT, names.LABEL_ROLE, names.LABEL_REVISION, names.LABEL_LLM_D_ROLE),
    )
)


def apply_overlay(template: dict[str, Any], overlay: Mapping[str, Any], path: str) -> dict[str, Any]:
    """`template` with `overlay` merged in, as a new value; raises `Refused` located below `path`."""
    _check(overlay, path)
    merged: dict[str, Any] = merge(template, overlay, path)
    server = next(item for item in merged["spec"]["containers"] if item.get("name") == names.WORKER_CONTAINER)
    wanted = {"name": names.HTTP_PORT_NAME, "containerPort": names.HTTP_PORT}
    if not any(wanted.items() <= port.items() for port in server.get("ports") or []):
        reason = f"the Service and the probes need the port {names.HTTP_PORT_NAME} {names.HTTP_PORT} of the server"
        raise refuse(f"{path}.spec.containers", None, reason, "Leave that port as it is.")
    for group in ("containers", "initContainers"):
        for container in merged["spec"].get(group) or []:
            _harden(container)
    return merged


def _check(overlay: Mapping[str, Any], path: str) -> None:
    for key in overlay:
        if key not in ("metadata", "spec"):
            raise refuse(f"{path}.{key}", None, "a pod template has metadata and spec", "Put it below one of them.")
    metadata = overlay.get("metadata")
    metadata = {} if metadata is None else _mapping(metadata, f"{path}.metadata")
    for key in metadata:
        if key not in ("labels", "annotations"):
            raise refuse(f"{path}.metadata.{key}", metadata[key], "Tandem names its pods itself", "Remove it.")
    labels = _mapping(metadata.get("labels") or {}, f"{path}.metadata.labels")
    for key in sorted(_RESERVED_LABELS & set(labels)):
        reason = "Services, router and operator find the pod by this label"
        raise refuse(f"{path}.metadata.labels.{key}", labels[key], reason, "Use a label of your own.")
    for key in ("metadata", "spec"):
        if key in overlay and overlay[key] is None:
            raise refuse(f"{path}.{key}", "null", "it cannot be removed", "Name the fields to remove inside it.")
    if metadata.get("labels", {}) is None:
        raise refuse(f"{path}.metadata.labels", "null", "labels cannot be removed", "Remove it.")


def merge(base: Any, overlay: Any, path: str, field: str = "") -> Any:
    """Strategic merge of one value; `field` is the name of the list or map that it is in."""
    if isinstance(base, Mapping) and isinstance(overlay, Mapping):
        return _merge_maps(base, overlay, path)
    if isinstance(overlay, list) and field in _MERGE_KEYS and isinstance(base, list | None):
        return _merge_lists(base or [], overlay, path, _MERGE_KEYS[field])
    for kind, word in ((Mapping, "a mapping"), (list, "a list")):
        if isinstance(base, kind) and not isinstance(overlay, kind):
            raise refuse(path, overlay, f"{word} is needed here", "See the fields of a pod template.")
    return _copy(overlay)


def _merge_maps(base: Mapping[str, Any], overlay: Mapping[str, Any], path: str) -> dict[str, Any]:
    merged = dict(base)
    for key, value in overlay.items():
        where = f"{path}.{key}"
        if key.startswith("$"):
            raise refuse(where, value, "directives of strategic merge are allowed on list items only", "Use null.")
        if value is None:
            if key in ("containers", "name"):
                raise refuse(where, "null", "it cannot be removed", "Remove the line.")
            merged.pop(key, None)
        else:
            merged[key] = merge(base.get(key), value, where, key)
    return merged


def _merge_lists(base: list[Any], overlay: list[Any], path: str, keys: tuple[str, ...]) -> list[Any]:
    merged = list(base)
    for index, item in enumerate(overlay):
        where = f"{path}[{index}]"
        item = _mapping(item, where)
        identity = _identity(item, keys)
        if identity[0] is None and keys[0] != "key":
            raise refuse(f"{where}.{keys[0]}", None, "needed: list items are merged by it", "Add it.")
        at = next((place for place, known in enumerate(merged) if _identity(known, keys) == identity), None)
        if item.get("$patch") == "delete":
            if item.get("name") == names.WORKER_CONTAINER and path.endswith(".containers"):
                raise refuse(where, None, "the server container cannot be removed", "Remove the line.")
            if at is not None:
                del merged[at]
        elif at is None:
            merged.append(merge({}, item, where))
        else:
            merged[at] = merge(merged[at], item, where)
    return merged


def _identity(item: Mapping[str, Any], keys: tuple[str, ...]) -> tuple[Any, ...]:
    return tuple(item.get(key, _DEFAULTS.get(key)) for key in keys)


def _mapping(value: Any, path: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise refuse(path, value, "a mapping is needed here", "Write key: value pairs.")
    return value


def _copy(value: Any) -> Any:
    """A copy of parsed JSON, without what null removes from maps."""
    if isinstance(value, Mapping):
        return {key: _copy(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_copy(item) for item in value]
    return value


def _harden(container: dict[str, Any]) -> None:
    """Adds to a container of the user what *restricted* asks for, where the user said nothing."""
    container["securityContext"] = container_security() | (container.get("securityContext") or {})
