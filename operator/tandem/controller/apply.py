"""Carries out a plan: writes in parallel, answers into the cache, refusals as values."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from tandem.controller.compare import differences
from tandem.controller.plan import Apply, Delete, NotOurs, Plan, Scale, Seen, Tolerated, was_predecessors
from tandem.kube.cache import Cache, Ref, entry_of
from tandem.kube.client import Client
from tandem.kube.errors import ApiError
from tandem.kube.resources import BY_KIND, ROLE_BINDING, WORKLOAD_KINDS
from tandem.manifests import names

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Failure:
    """A write that the API server did not take."""

    ref: Ref
    error: ApiError


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a plan. `stale`: the cache was behind; the same work is due again with what was learnt."""

    written: tuple[Apply, ...] = ()
    failures: tuple[Failure, ...] = ()
    not_ours: tuple[NotOurs, ...] = ()
    tolerated: tuple[tuple[Ref, Tolerated], ...] = ()
    confirmed: tuple[tuple[Ref, Seen], ...] = ()
    stale: bool = False


class Applier:
    """Writes for one ModelDeployment after the other; keeps nothing but what it learnt about objects of others."""

    def __init__(self, client: Client, cache: Cache) -> None:
        self._client = client
        self._cache = cache
        self._foreign: set[Ref] = set()

    async def carry_out(self, plan: Plan, *, owner_uid: str) -> Outcome:
        """Makes all writes; what names others comes last: pods never wait, and a binding needs its Role to be there."""
        naming = {*WORKLOAD_KINDS, ROLE_BINDING.kind}
        first = [apply for apply in plan.applies if apply.ref.kind not in naming]
        last = [apply for apply in plan.applies if apply.ref.kind in naming]
        outcomes = await self._all(first, owner_uid)
        outcomes += await self._all(last, owner_uid)
        outcomes += await asyncio.gather(*(self._scale(scale) for scale in plan.scales))
        outcomes += await asyncio.gather(*(self._delete(delete) for delete in plan.deletes))
        return Outcome(
            written=tuple(apply for outcome in outcomes for apply in outcome.written),
            failures=tuple(failure for outcome in outcomes for failure in outcome.failures),
            not_ours=tuple(other for outcome in outcomes for other in outcome.not_ours),
            tolerated=tuple(pair for outcome in outcomes for pair in outcome.tolerated),
            confirmed=tuple(pair for outcome in outcomes for pair in outcome.confirmed),
            stale=any(outcome.stale for outcome in outcomes),
        )

    async def _all(self, applies: Sequence[Apply], owner_uid: str) -> list[Outcome]:
        return list(await asyncio.gather(*(self._apply(apply, owner_uid) for apply in applies)))

    async def _apply(self, apply: Apply, owner_uid: str) -> Outcome:
        if apply.why:
            logger.info("%s is brought back to what it should be: %s", apply.ref, ", ".join(apply.why[:5]))
        if apply.uid is None and apply.ref in self._foreign:
            # Known to be in the way: looking is not a write, trying again would be one.
            return await self._look_again(apply, owner_uid)
        try:
            answer = await self._client.apply(apply.body, uid=apply.uid)
        except ApiError as error:
            return await self._not_applied(apply, error, owner_uid)
        entry = entry_of(BY_KIND[apply.ref.kind], answer)
        self._cache.put(entry)
        left = differences(apply.body, answer)
        if not left:
            return Outcome(written=(apply,), confirmed=((apply.ref, apply.seen_as(entry)),))
        logger.warning("the API server keeps %s of %s as it is, which is accepted", ", ".join(left), apply.ref)
        return Outcome(written=(apply,), tolerated=((apply.ref, Tolerated(apply.digest, frozenset(left))),))

    async def _not_applied(self, apply: Apply, error: ApiError, owner_uid: str) -> Outcome:
        """Finds out why: an object is in the way, the one that was meant is gone, or the API server refuses."""
        gone_or_other = error.is_conflict or any(cause.path == "metadata.uid" for cause in error.causes)
        if not gone_or_other:
            return Outcome(failures=(Failure(apply.ref, error),))
        return await self._look_again(apply, owner_uid)

    async def _look_again(self, apply: Apply, owner_uid: str) -> Outcome:
        """Reads an object that is not what the cache made believe, and learns from it."""
        self._foreign.discard(apply.ref)
        resource = BY_KIND[apply.ref.kind]
        try:
            found = entry_of(resource, await self._client.get(resource, apply.ref.namespace, apply.ref.name))
        except ApiError as reading:
            if reading.is_not_found and apply.uid:
                self._cache.remove(apply.ref, uid=apply.uid)
            return Outcome(stale=True) if reading.is_not_found else Outcome(failures=(Failure(apply.ref, reading),))
        if found.owner is not None and found.owner.uid == owner_uid:
            # Ours, but the watch has not told yet, or its labels were taken away.
            self._cache.put(found)
            return Outcome(stale=True)
        if was_predecessors(found, apply.body["metadata"]["labels"][names.LABEL_DEPLOYMENT]):
            return Outcome(stale=True)
        self._foreign.add(apply.ref)
        return Outcome(not_ours=(NotOurs(apply.ref, found.owner),))

    async def _scale(self, scale: Scale) -> Outcome:
        ref = scale.ref
        resource, patch = BY_KIND[ref.kind], {"spec": {"replicas": scale.replicas}}
        try:
            answer = await self._client.merge(resource, ref.namespace, ref.name, patch, uid=scale.uid)
        except ApiError as error:
            return Outcome(stale=True) if error.is_not_found else Outcome(failures=(Failure(ref, error),))
        self._cache.put(entry_of(resource, answer))
        return Outcome()

    async def _delete(self, delete: Delete) -> Outcome:
        ref = delete.ref
        try:
            await self._client.delete(BY_KIND[ref.kind], ref.namespace, ref.name, uid=delete.uid)
        except ApiError as error:
            # Gone already, or another object by now: either way ours is no more.
            if not (error.is_not_found or error.is_conflict):
                return Outcome(failures=(Failure(ref, error),))
        self._cache.remove(ref, uid=delete.uid)
        return Outcome()
