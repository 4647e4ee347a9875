"""podTemplate: the user's overlay on a worker's pod template, by a small strategic merge.

Maps merge; lists of things with a name merge by that name; other lists replace; null removes. What would cut a pod off
from its Service, its router or its ModelDeployment is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tandem.api.mistakes import near
from tandem.api.podplaces import place_of
from tandem.api.problems import refuse
from tandem.manifests import names
from tandem.manifests.security import container_security


@dataclass(frozen=True, slots=True)
class _Keyed:
    """A list whose items are merged by the fields `keys`; `item` has the keyed lists inside an item."""

    keys: tuple[str, ...]
    item: Mapping[str, _Keyed] = field(default_factory=dict)


# The lists of a pod template that Kubernetes itself merges by key, as in its published OpenAPI.
_CONTAINER: Mapping[str, _Keyed] = {
    "env": _Keyed(("name",)),
    "ports": _Keyed(("containerPort", "protocol")),
    "volumeMounts": _Keyed(("mountPath",)),
    "volumeDevices": _Keyed(("devicePath",)),
}
_SPEC: Mapping[str, _Keyed] = {
    "containers": _Keyed(("name",), _CONTAINER),
    "initContainers": _Keyed(("name",), _CONTAINER),
    "volumes": _Keyed(("name",)),
    "imagePullSecrets": _Keyed(("name",)),
    "hostAliases": _Keyed(("ip",)),
    "topologySpreadConstraints": _Keyed(("topologyKey", "whenUnsatisfiable")),
    "tolerations": _Keyed(("key", "operator", "value", "effect")),
}
_PLAIN: Mapping[str, _Keyed] = {}
_DEFAULTS: Mapping[str, str] = {"protocol": "TCP", "operator": "Equal"}
_RESERVED_LABELS = frozenset(
    (
        *(names.LABEL_NAME, names.LABEL_INSTANCE, names.LABEL_COMPONENT, names.LABEL_MANAGED_BY),
        *(names.LABEL_DEPLOYMENT, names.LABEL_ROLE, names.LABEL_REVISION, names.LABEL_LLM_D_ROLE),
    )
)


def apply_overlay(template: Mapping[str, Any], overlay: Mapping[str, Any], path: str) -> dict[str, Any]:
    """`template` with `overlay` merged in, as a new value; raises `Refused` located below `path`."""
    _check(overlay, path)
    merged = dict(template)
    for part, schema in (("metadata", _PLAIN), ("spec", _SPEC)):
        if part in overlay:
            merged[part] = _merge_maps(template[part], overlay[part], f"{path}.{part}", schema)
    server = next(item for item in merged["spec"]["containers"] if item.get("name") == names.WORKER_CONTAINER)
    wanted = {"name": names.HTTP_PORT_NAME, "containerPort": names.HTTP_PORT}
    if not any(wanted.items() <= port.items() for port in server.get("ports") or []):
        reason = f"the Service and the probes need the port {names.HTTP_PORT_NAME} {names.HTTP_PORT} of the server"
        raise refuse(f"{path}.spec.containers", None, reason, "Leave that port as it is.")
    for group in ("containers", "initContainers"):
        if group in merged["spec"]:
            merged["spec"][group] = [_hardened(container) for container in merged["spec"][group]]
    return merged


def server_image(overlay: Mapping[str, Any] | None) -> str | None:
    """The image that an overlay gives the server container, None when it gives none (or is not well-formed)."""
    containers = _field(_field(overlay, "spec"), "containers")
    if not isinstance(containers, list):
        return None
    found = [_field(item, "image") for item in containers if _field(item, "name") == names.WORKER_CONTAINER]
    return found[0] if found and isinstance(found[0], str) else None


def _field(value: Any, key: str) -> Any:
    return value.get(key) if isinstance(value, Mapping) else None


def _check(overlay: Mapping[str, Any], path: str) -> None:
    for part, value in overlay.items():
        if part not in ("metadata", "spec"):
            raise refuse(f"{path}.{part}", None, "a pod template has metadata and spec", _right_place(part))
        _mapping(value, f"{path}.{part}")
    for key, value in overlay.get("metadata", {}).items():
        where = f"{path}.metadata.{key}"
        if key not in ("labels", "annotations"):
            found = near(key, ["labels", "annotations"])
            fix = f"Did you mean {found}?" if found else "Remove it."
            raise refuse(where, None, "of metadata only labels and annotations can be given", fix)
        for label in sorted(_RESERVED_LABELS & set(_mapping(value, where))):
            reason = "Services, router and operator find the pod by this label"
            raise refuse(f"{where}.{label}", value[label], reason, "Use a label of your own.")


def _right_place(part: str) -> str:
    if found := near(part, ["metadata", "spec"]):
        return f"Did you mean {found}?"
    place = place_of(part)
    return f"It belongs below podTemplate.{place}." if place else "Put it below one of them."


def _merge(base: Any, overlay: Any, path: str, schema: _Keyed | None) -> Any:
    """Strategic merge of one value that is not null."""
    if schema is not None:
        if not isinstance(overlay, list):
            raise refuse(path, overlay, "a list is needed here", "Write its items with a dash.")
        return _merge_lists(base or [], overlay, path, schema)
    if isinstance(base, Mapping):
        return _merge_maps(base, _mapping(overlay, path), path, _PLAIN)
    return _copy(overlay)


def _merge_maps(
    base: Mapping[str, Any], overlay: Mapping[str, Any], path: str, schema: Mapping[str, _Keyed]
) -> dict[str, Any]:
    merged = dict(base)
    for key, value in overlay.items():
        where = f"{path}.{key}"
        if key.startswith("$"):
            reason = "of strategic merge's directives only `$patch: delete` on a list item is known"
            raise refuse(where, value, reason, "Write null to remove a field.")
        if value is not None:
            merged[key] = _merge(base.get(key), value, where, schema.get(key))
        elif key in ("containers", "name"):
            raise refuse(where, "null", "it cannot be removed", "Remove the line.")
        else:
            merged.pop(key, None)
    return merged


def _merge_lists(base: list[Any], overlay: list[Any], path: str, schema: _Keyed) -> list[Any]:
    merged: list[Any] = list(base)
    # Found by text, as identities may hold anything; a search of the list for each item would take minutes.
    places = {repr(_identity(item, schema)): place for place, item in reversed([*enumerate(merged)])}
    for index, value in enumerate(overlay):
        where = f"{path}[{index}]"
        item = _mapping(value, where)
        first = schema.keys[0]
        if item.get(first) is None and first != "key":  # a toleration of every taint has no key
            raise refuse(f"{where}.{first}", None, "needed: items of this list are merged by it", "Add it.")
        if schema.item and item.get("securityContext") is not None:
            _mapping(item["securityContext"], f"{where}.securityContext")  # a base has it only for our own container
        identity = repr(_identity(item, schema))
        at = places.get(identity)
        if item.get("$patch") == "delete":
            if schema.item and item.get("name") == names.WORKER_CONTAINER:
                raise refuse(where, None, "the server container cannot be removed", "Remove the line.")
            if at is not None:
                merged[places.pop(identity)] = None
        elif at is None:
            places[identity] = len(merged)
            merged.append(_merge_maps({}, item, where, schema.item))
        else:
            merged[at] = _merge_maps(merged[at], item, where, schema.item)
    return [item for item in merged if item is not None]


def _identity(item: Mapping[str, Any], schema: _Keyed) -> tuple[Any, ...]:
    return tuple(item.get(key, _DEFAULTS.get(key)) for key in schema.keys)


def _mapping(value: Any, path: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        shown = "null" if value is None else value
        raise refuse(path, shown, "a map is needed here", "Write key: value lines, or null for single fields.")
    return value


def _copy(value: Any) -> Any:
    """A copy of parsed JSON, without what null removes from maps."""
    if isinstance(value, Mapping):
        return {key: _copy(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_copy(item) for item in value]
    return value


def _hardened(container: dict[str, Any]) -> dict[str, Any]:
    """A container of the user with what Tandem's own have, where the user said nothing."""
    own = container.get("securityContext") or {}
    return {
        "terminationMessagePolicy": "FallbackToLogsOnError",
        **container,
        "securityContext": container_security() | own,
    }
