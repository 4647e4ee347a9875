"""ModelBlueprints that deployments have without naming one: made, shared, and given up with the last of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tandem.api.base import API_VERSION
from tandem.controller.uses import Uses
from tandem.kube.cache import Cache, Entry, Ref, entry_of
from tandem.kube.client import Client
from tandem.kube.clock import Clock
from tandem.kube.errors import ApiError
from tandem.kube.resources import MODEL_BLUEPRINT, MODEL_DEPLOYMENT
from tandem.manifests import names

COMPONENT = "blueprint"
# Many deployments of one model may come at once: all of them become owners in one write.
GATHER_SECONDS = 1.0


class OwnedBlueprints:
    """Keeps each in existence as long as somebody uses it. No owner is its controller: the garbage collector removes
    it with the last."""

    def __init__(self, client: Client, cache: Cache, uses: Uses, clock: Clock) -> None:
        self._client = client
        self._cache = cache
        self._uses = uses
        self._clock = clock
        self._due: dict[Ref, float] = {}

    async def keep(self, ref: Ref) -> float | None:
        """Creates it, writes its owners, or deletes it; returns the seconds to call again after. Raises ApiError."""
        entry = self._cache.get(ref)
        owners = self._uses.owners(ref)
        if entry is None:
            self._due.pop(ref, None)
            return await self._create(ref, owners) if owners else None
        if not _is_ours(entry) or entry.deleting:
            return None
        present = entry.object["metadata"].get("ownerReferences") or []
        live = {each.uid for each in self._cache.of_kind(MODEL_DEPLOYMENT.kind, ref.namespace)}
        # What is gone, the garbage collector takes out.
        wanted = [each for each in present if each["uid"] not in live] + [_reference(each) for each in owners]
        if {each["uid"] for each in present} == {each["uid"] for each in wanted}:
            self._due.pop(ref, None)
            return None
        due = self._due.setdefault(ref, self._clock.monotonic() + GATHER_SECONDS)
        if (left := due - self._clock.monotonic()) > 0:
            return left
        del self._due[ref]
        await self._write(entry, wanted)
        return None

    async def _create(self, ref: Ref, owners: Sequence[Entry]) -> float | None:
        document = {
            "apiVersion": API_VERSION,
            "kind": ref.kind,
            "metadata": {
                "name": ref.name,
                "namespace": ref.namespace,
                "labels": {
                    names.LABEL_NAME: names.APP,
                    names.LABEL_COMPONENT: COMPONENT,
                    names.LABEL_MANAGED_BY: names.APP,
                },
                "ownerReferences": [_reference(each) for each in owners],
            },
            "spec": {"from": self._uses.source(owners[0])},
        }
        try:
            answer = await self._client.create(MODEL_BLUEPRINT, document)
        except ApiError as error:
            if error.is_conflict:
                return GATHER_SECONDS  # the watch will tell
            raise
        self._cache.put(entry_of(MODEL_BLUEPRINT, answer))
        return None

    async def _write(self, entry: Entry, wanted: list[dict[str, Any]]) -> None:
        ref = entry.ref
        if not wanted:
            await self._client.delete(MODEL_BLUEPRINT, ref.namespace, ref.name, uid=entry.uid)
            self._cache.remove(ref, uid=entry.uid)
            return
        patch = {"metadata": {"ownerReferences": wanted, "resourceVersion": str(entry.version)}}
        answer = await self._client.merge(MODEL_BLUEPRINT, ref.namespace, ref.name, patch, uid=entry.uid)
        self._cache.put(entry_of(MODEL_BLUEPRINT, answer))


def _is_ours(entry: Entry) -> bool:
    labels = entry.object["metadata"].get("labels") or {}
    return bool(labels.get(names.LABEL_MANAGED_BY) == names.APP and labels.get(names.LABEL_COMPONENT) == COMPONENT)


def _reference(owner: Entry) -> dict[str, Any]:
    return {"apiVersion": API_VERSION, "kind": MODEL_DEPLOYMENT.kind, "name": owner.ref.name, "uid": owner.uid}
