"""Whether an object in the cluster already says all that we want it to say.

Others may add fields (defaults of the API server, an autoscaler, a mesh); what counts is that ours are there with our
values. The API server rewrites some values (`1000m` to `1`), fills in defaults and drops empty ones: that is no
difference.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tandem.api.quantity import quantity

# Lists that are maps by these keys, for server-side apply as for us: others may add entries of their own.
LIST_KEYS: Mapping[str, tuple[str, ...]] = {
    "containers": ("name",),
    "initContainers": ("name",),
    "volumes": ("name",),
    "env": ("name",),
    "volumeMounts": ("mountPath",),
    "imagePullSecrets": ("name",),
    "ownerReferences": ("uid",),
    "hostAliases": ("ip",),
    "topologySpreadConstraints": ("topologyKey", "whenUnsatisfiable"),
}
# Ports are keyed by number and protocol, but in a NetworkPolicy they are a plain list.
CONTAINER_PORT = ("containerPort", "protocol")
SERVICE_PORT = ("port", "protocol")
PORT_KEYS = (CONTAINER_PORT, SERVICE_PORT)
QUANTITY_MAPS = frozenset({"limits", "requests", "hard", "capacity"})
QUANTITY_FIELDS = frozenset({"sizeLimit", "divisor", "storage"})
# Stored only when true: false and absent are the same.
OMITTED_WHEN_FALSE = frozenset({"hostNetwork", "hostPID", "hostIPC", "readOnly", "stdin", "stdinOnce", "tty", "paused"})
OMITTED_WHEN_ZERO = frozenset({"minReadySeconds"})


def differences(wanted: Mapping[str, Any], observed: Mapping[str, Any]) -> tuple[str, ...]:
    """Paths at which `observed` does not say what `wanted` says; empty when there is nothing to write.

    Both are JSON documents: of dicts, lists and scalars.
    """
    found: list[str] = []
    _in_mapping(wanted, observed, "", found)
    return tuple(found)


def _in_mapping(wanted: Mapping[str, Any], observed: Mapping[str, Any], path: str, found: list[str]) -> None:
    for key, value in wanted.items():
        theirs = observed.get(key)
        if value == theirs and type(value) is type(theirs):
            continue
        here = f"{path}.{key}" if path else key
        if theirs is None:
            if not _means_absent(key, value):
                found.append(here)
        elif key in QUANTITY_FIELDS:
            if not _same_quantity(value, theirs):
                found.append(here)
        elif key in QUANTITY_MAPS and isinstance(value, dict):
            _quantities(value, theirs, here, found)
        else:
            _anywhere(key, value, theirs, here, found)


def _anywhere(key: str, wanted: Any, observed: Any, path: str, found: list[str]) -> None:
    if isinstance(wanted, dict) and isinstance(observed, dict):
        _in_mapping(wanted, observed, path, found)
    elif isinstance(wanted, list) and isinstance(observed, list):
        keys = _keys_of(key, wanted, observed)
        if keys:
            _in_keyed(keys, wanted, observed, path, found)
        else:
            _in_list(wanted, observed, path, found)
    elif wanted != observed or isinstance(wanted, bool) is not isinstance(observed, bool):
        found.append(path)


def _in_list(wanted: list[Any], observed: list[Any], path: str, found: list[str]) -> None:
    if len(wanted) != len(observed):
        found.append(path)
        return
    for index, (ours, theirs) in enumerate(zip(wanted, observed, strict=True)):
        _anywhere("", ours, theirs, f"{path}[{index}]", found)


def _in_keyed(keys: tuple[str, ...], wanted: list[Any], observed: list[Any], path: str, found: list[str]) -> None:
    known = {_key(item, keys): item for item in observed}
    for item in wanted:
        key = _key(item, keys)
        here = f"{path}[{'/'.join(str(part) for part in key)}]"
        if key in known:
            _in_mapping(item, known[key], here, found)
        else:
            found.append(here)


def _quantities(wanted: dict[str, Any], observed: Any, path: str, found: list[str]) -> None:
    theirs = observed if isinstance(observed, dict) else {}
    for name, value in wanted.items():
        if name not in theirs or not _same_quantity(value, theirs[name]):
            found.append(f"{path}.{name}")


def _same_quantity(ours: object, theirs: object) -> bool:
    if ours == theirs:
        return True
    left, right = quantity(ours), quantity(theirs)
    return left is not None and left == right


def _keys_of(field: str, wanted: list[Any], observed: list[Any]) -> tuple[str, ...]:
    choices = PORT_KEYS if field == "ports" else (LIST_KEYS[field],) if field in LIST_KEYS else ()
    items = [*wanted, *observed]
    return next((keys for keys in choices if all(_has(item, keys) for item in items)), ())


def _has(item: Any, keys: tuple[str, ...]) -> bool:
    """Whether `item` can be told from others by `keys`. Anything may stand in an overlay: {name: {a: 1}}, say."""
    if not isinstance(item, dict) or any(isinstance(item.get(key), dict | list) for key in keys):
        return False
    if keys == SERVICE_PORT:
        # Ports of NetworkPolicies have no name and are compared in order.
        return "port" in item and "name" in item
    return all(key in item or key == "protocol" for key in keys)


def _key(item: dict[str, Any], keys: tuple[str, ...]) -> tuple[Any, ...]:
    return tuple(item.get(key, "TCP") if key == "protocol" else item.get(key) for key in keys)


def _means_absent(key: str, value: Any) -> bool:
    """Whether the API server stores nothing for this value."""
    if value is None or value in ("", [], {}):
        return True
    if value is False:
        return key in OMITTED_WHEN_FALSE
    if isinstance(value, dict):
        return all(_means_absent(inner, entry) for inner, entry in value.items())
    return value == 0 and key in OMITTED_WHEN_ZERO
