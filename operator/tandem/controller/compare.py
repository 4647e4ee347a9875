"""Whether an object in the cluster already says all that we want it to say.

Others may add fields (defaults of the API server, an autoscaler, a mesh); what counts is that ours are there with our
values. The API server rewrites some values (`1000m` to `1`), fills in defaults and drops empty ones: that is no
difference.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any

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
PORT_KEYS = (("containerPort", "protocol"), ("port", "protocol"))
QUANTITY_MAPS = frozenset({"limits", "requests", "hard", "capacity"})
QUANTITY_FIELDS = frozenset({"sizeLimit", "divisor", "storage"})
# Stored only when true: false and absent are the same.
OMITTED_WHEN_FALSE = frozenset({"hostNetwork", "hostPID", "hostIPC", "readOnly", "stdin", "stdinOnce", "tty", "paused"})
OMITTED_WHEN_ZERO = frozenset({"minReadySeconds"})

_QUANTITY = re.compile(r"(?P<number>[-+]?[0-9.]+(?:[eE][-+]?[0-9]+)?)(?P<suffix>[numkMGTPE]?|[KMGTPE]i)")
_SUFFIXES = {
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("1e-3"),
    "": Decimal(1),
    "k": Decimal(10) ** 3,
    "M": Decimal(10) ** 6,
    "G": Decimal(10) ** 9,
    "T": Decimal(10) ** 12,
    "P": Decimal(10) ** 15,
    "E": Decimal(10) ** 18,
    "Ki": Decimal(2) ** 10,
    "Mi": Decimal(2) ** 20,
    "Gi": Decimal(2) ** 30,
    "Ti": Decimal(2) ** 40,
    "Pi": Decimal(2) ** 50,
    "Ei": Decimal(2) ** 60,
}


def differences(wanted: Mapping[str, Any], observed: Mapping[str, Any]) -> tuple[str, ...]:
    """Paths at which `observed` does not say what `wanted` says; empty when there is nothing to write."""
    return tuple(_in_mapping(wanted, observed, ""))


def quantity(value: object) -> Decimal | None:
    """The number that a Kubernetes quantity stands for; None when it is none."""
    match = _QUANTITY.fullmatch(str(value).strip())
    if match is None:
        return None
    try:
        return Decimal(match["number"]) * _SUFFIXES[match["suffix"]]
    except InvalidOperation:
        return None


def _in_mapping(wanted: Mapping[str, Any], observed: Mapping[str, Any], path: str) -> Iterator[str]:
    for key, value in wanted.items():
        here = f"{path}.{key}" if path else key
        if key not in observed or observed[key] is None:
            if not _means_absent(key, value):
                yield here
        elif key in QUANTITY_FIELDS:
            yield from () if _same_quantity(value, observed[key]) else (here,)
        elif key in QUANTITY_MAPS and isinstance(value, Mapping):
            yield from _quantities(value, observed[key], here)
        else:
            yield from _anywhere(key, value, observed[key], here)


def _anywhere(key: str, wanted: Any, observed: Any, path: str) -> Iterator[str]:
    if isinstance(wanted, Mapping) and isinstance(observed, Mapping):
        yield from _in_mapping(wanted, observed, path)
    elif isinstance(wanted, list | tuple) and isinstance(observed, list | tuple):
        keys = _keys_of(key, wanted, observed)
        yield from _in_keyed(keys, wanted, observed, path) if keys else _in_list(wanted, observed, path)
    elif wanted != observed or isinstance(wanted, bool) is not isinstance(observed, bool):
        yield path


def _in_list(wanted: Sequence[Any], observed: Sequence[Any], path: str) -> Iterator[str]:
    if len(wanted) != len(observed):
        yield path
        return
    for index, (ours, theirs) in enumerate(zip(wanted, observed, strict=True)):
        yield from _anywhere("", ours, theirs, f"{path}[{index}]")


def _in_keyed(keys: Sequence[str], wanted: Sequence[Any], observed: Sequence[Any], path: str) -> Iterator[str]:
    found = {_key(item, keys): item for item in observed}
    for item in wanted:
        key = _key(item, keys)
        here = f"{path}[{'/'.join(str(part) for part in key)}]"
        if key in found:
            yield from _in_mapping(item, found[key], here)
        else:
            yield here


def _quantities(wanted: Mapping[str, Any], observed: Any, path: str) -> Iterator[str]:
    theirs = observed if isinstance(observed, Mapping) else {}
    for name, value in wanted.items():
        if name not in theirs or not _same_quantity(value, theirs[name]):
            yield f"{path}.{name}"


def _same_quantity(ours: object, theirs: object) -> bool:
    if ours == theirs:
        return True
    left, right = quantity(ours), quantity(theirs)
    return left is not None and left == right


def _keys_of(field: str, wanted: Sequence[Any], observed: Sequence[Any]) -> tuple[str, ...]:
    items = [*wanted, *observed]
    if not items or not all(isinstance(item, Mapping) for item in items):
        return ()
    if field == "ports":
        return next((keys for keys in PORT_KEYS if all(_is_port(item, keys[0]) for item in items)), ())
    keys = LIST_KEYS.get(field, ())
    return keys if all(key in item for item in items for key in keys) else ()


def _is_port(item: Mapping[str, Any], number: str) -> bool:
    # Ports of NetworkPolicies have no name and are compared in order.
    return number in item and (number == "containerPort" or "name" in item)


def _key(item: Mapping[str, Any], keys: Sequence[str]) -> tuple[Any, ...]:
    return tuple(item.get(key, "TCP") if key == "protocol" else item.get(key) for key in keys)


def _means_absent(key: str, value: Any) -> bool:
    """Whether the API server stores nothing for this value."""
    if value is None or value in ("", [], {}, ()):
        return True
    if value is False:
        return key in OMITTED_WHEN_FALSE
    if isinstance(value, Mapping):
        return all(_means_absent(inner, entry) for inner, entry in value.items())
    return value == 0 and key in OMITTED_WHEN_ZERO
