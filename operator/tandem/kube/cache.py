"""The last known state of every watched object, compact: JSON text instead of object trees, parsed when looked at."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from pydantic_core import from_json, to_json

from tandem.api import labels
from tandem.kube.resources import MODEL_DEPLOYMENT, OWN_KINDS, POD, WORKLOAD_KINDS, Resource

LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
LONGEST_MESSAGE = 4096
# Bytes of JSON that an object of our own kinds may take. Client-side apply cannot store more, and a few hundred objects
# as large as etcd takes them would fill the operator's memory.
LARGEST = 256 * 1024


class Ref(NamedTuple):
    """The name of an object; also the key of the work queue for objects of our own kinds."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"


class Owner(NamedTuple):
    """The controller of an object."""

    kind: str
    name: str
    uid: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


@dataclass(frozen=True, slots=True)
class Entry:
    """One object. `version` is its resourceVersion as a number, `generation` that of its spec (0 for kinds without),
    `owner` its controller and `deployment` the name of the ModelDeployment that it belongs to by controller or label
    ('' for none). `too_large` are the bytes of an object that only the head of is kept, for its size; 0 for others."""

    ref: Ref
    uid: str
    version: int
    generation: int
    owner: Owner | None
    deployment: str
    deleting: bool
    body: bytes
    too_large: int = 0

    @property
    def object(self) -> dict[str, Any]:
        """The object without managedFields, resourceVersion and what nobody here reads; a fresh copy."""
        parsed: dict[str, Any] = from_json(self.body, cache_strings="all")
        return parsed


OnChange = Callable[[Entry, Entry | None], None]
"""Told of each object that came, changed or went (the entry is then its last state), with its state before if any."""


def entry_of(resource: Resource, obj: Mapping[str, Any]) -> Entry:
    """The entry of an object as the API server sends it."""
    metadata = obj["metadata"]
    owner = next(
        (
            Owner(reference["kind"], reference["name"], reference["uid"])
            for reference in metadata.get("ownerReferences") or ()
            if reference.get("controller")
        ),
        None,
    )
    label = (metadata.get("labels") or {}).get(labels.DEPLOYMENT, "")
    of_deployment = owner is not None and owner.kind == MODEL_DEPLOYMENT.kind
    body, too_large = _body(resource, obj, keeps_content=of_deployment or resource in OWN_KINDS or resource is POD)
    return Entry(
        ref=Ref(resource.kind, metadata.get("namespace", ""), metadata["name"]),
        uid=metadata["uid"],
        version=int(metadata["resourceVersion"]),
        generation=metadata.get("generation", 0),
        owner=owner,
        deployment=owner.name if owner is not None and of_deployment else label,
        deleting="deletionTimestamp" in metadata,
        body=body,
        too_large=too_large,
    )


class Cache:
    """Entries by name and by ModelDeployment. Older news never replaces newer: answers to our own writes may overtake
    the watch. `observers` hear of every accepted change, after it."""

    def __init__(self) -> None:
        self._entries: dict[Ref, Entry] = {}
        self._children: dict[tuple[str, str], dict[Ref, Entry]] = {}
        self.observers: list[Callable[[Ref, str, int], None]] = []

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, ref: Ref) -> Entry | None:
        """The entry of that name."""
        return self._entries.get(ref)

    def children(self, namespace: str, deployment: str) -> tuple[Entry, ...]:
        """What belongs to a ModelDeployment by controller or label, pods included."""
        return tuple(self._children.get((namespace, deployment), {}).values())

    def of_kind(self, kind: str, namespace: str | None = None) -> Iterator[Entry]:
        """All entries of a kind, in one namespace or everywhere."""
        return (
            entry
            for entry in tuple(self._entries.values())
            if entry.ref.kind == kind and namespace in (None, entry.ref.namespace)
        )

    def put(self, entry: Entry) -> bool:
        """Takes in an object's state; True when that is news (not older, and not equal but for its version)."""
        known = self._entries.get(entry.ref)
        if known is not None and entry.version <= known.version:
            return False
        self._unlink(known)
        self._entries[entry.ref] = entry
        if entry.deployment and entry.ref.kind != MODEL_DEPLOYMENT.kind:
            self._children.setdefault((entry.ref.namespace, entry.deployment), {})[entry.ref] = entry
        self._tell(entry.ref, entry.uid, entry.version)
        return known is None or known.uid != entry.uid or known.body != entry.body

    def remove(self, ref: Ref, *, uid: str, version: int | None = None) -> Entry | None:
        """Forgets the object with `uid`, unless it is known at a later version; returns what was forgotten."""
        known = self._entries.get(ref)
        if known is not None and known.uid == uid and (version is None or known.version <= version):
            del self._entries[ref]
            self._unlink(known)
        else:
            known = None
        if version is not None:
            self._tell(ref, uid, version)
        return known

    def take(self, entry: Entry, *, gone: bool, tell: OnChange) -> None:
        """Takes in what a watch brings: an object's state, or its last one."""
        if gone:
            last = self.remove(entry.ref, uid=entry.uid, version=entry.version)
            if last is not None:
                tell(last, None)
            return
        before = self.get(entry.ref)
        if self.put(entry):
            # An object that moved to another deployment concerns both.
            if before is not None and before.deployment != entry.deployment:
                tell(before, None)
            tell(entry, before)

    def _unlink(self, entry: Entry | None) -> None:
        if entry is None or not entry.deployment:
            return
        key = (entry.ref.namespace, entry.deployment)
        siblings = self._children.get(key, {})
        siblings.pop(entry.ref, None)
        if not siblings:
            self._children.pop(key, None)

    def _tell(self, ref: Ref, uid: str, version: int) -> None:
        for observer in self.observers:
            observer(ref, uid, version)


def _body(resource: Resource, obj: Mapping[str, Any], *, keeps_content: bool) -> tuple[bytes, int]:
    """What is kept of an object as JSON, and the bytes that it would have taken if that is too much.

    Of what only carries our labels nothing but its name, owner and end matters.
    """
    compact = _compact(resource, obj)
    too_large = 0
    if keeps_content:
        body = to_json(compact)
        if resource not in OWN_KINDS or len(body) <= LARGEST:
            return body, 0
        too_large = len(body)
    kept = ("apiVersion", "kind", "metadata", "status") if too_large else ("apiVersion", "kind", "metadata")
    body = to_json({key: compact[key] for key in kept if key in compact})
    if len(body) > LARGEST:
        named = {key: value for key, value in compact["metadata"].items() if key not in ("labels", "annotations")}
        body = to_json({"apiVersion": compact["apiVersion"], "kind": compact["kind"], "metadata": named})
    return body, too_large


def _compact(resource: Resource, obj: Mapping[str, Any]) -> dict[str, Any]:
    metadata = obj["metadata"]
    kept = {key: metadata[key] for key in _METADATA if key in metadata}
    annotations = {key: value for key, value in (metadata.get("annotations") or {}).items() if key != LAST_APPLIED}
    if annotations:
        kept["annotations"] = annotations
    result: dict[str, Any] = {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": kept}
    if resource is POD:
        return {**result, "status": _compact_pod_status(obj.get("status") or {})}
    keeps_status = resource.kind in WORKLOAD_KINDS or resource in OWN_KINDS
    dropped = ("apiVersion", "kind", "metadata") if keeps_status else ("apiVersion", "kind", "metadata", "status")
    return {**result, **{key: value for key, value in obj.items() if key not in dropped}}


def _compact_pod_status(status: Mapping[str, Any]) -> dict[str, Any]:
    result = {key: status[key] for key in ("phase", "reason", "message", "startTime", "podIP") if key in status}
    result["conditions"] = [
        {key: condition[key] for key in _CONDITION if key in condition}
        for condition in status.get("conditions") or ()
        if condition.get("type") in _POD_CONDITIONS
    ]
    for field in ("initContainerStatuses", "containerStatuses"):
        if status.get(field):
            result[field] = [
                {key: _shorten(container[key]) for key in _CONTAINER if key in container} for container in status[field]
            ]
    return result


def _shorten(value: Any) -> Any:
    """Container states with their messages bounded: a termination message may be a log of kilobytes."""
    if isinstance(value, dict):
        return {key: _shorten(inner) for key, inner in value.items() if key != "containerID"}
    return value[-LONGEST_MESSAGE:] if isinstance(value, str) else value


_METADATA = (
    "name",
    "namespace",
    "uid",
    "generation",
    "labels",
    "ownerReferences",
    "creationTimestamp",
    "deletionTimestamp",
)
_CONDITION = ("type", "status", "reason", "message", "lastTransitionTime")
_POD_CONDITIONS = ("PodScheduled", "Ready", "DisruptionTarget")
_CONTAINER = ("name", "ready", "started", "restartCount", "state", "lastState", "image")
