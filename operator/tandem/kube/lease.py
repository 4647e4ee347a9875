"""Leader election by a Lease: who holds it may write, and knows until when."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tandem.kube.client import Client, Object
from tandem.kube.clock import Clock, micro_timestamp
from tandem.kube.errors import ApiError, Fenced
from tandem.kube.resources import LEASE

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LeaseTimes:
    """Seconds. A leader that could not renew for `renew_deadline` stops; others take over after `duration`.

    The gap between the two is the time that its last writes have to end in.
    """

    duration: float = 12.0
    renew_deadline: float = 8.0
    retry_period: float = 2.0
    watch_period: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.retry_period < self.renew_deadline < self.duration:
            raise ValueError("a lease needs retry_period < renew_deadline < duration, all above 0")


class LeaseFence:
    """Lets writes start until `renew_deadline` after the last renewal began; closed before the first and on release."""

    def __init__(self, clock: Clock, times: LeaseTimes) -> None:
        self._clock = clock
        self._times = times
        self._renewed_at: float | None = None

    def renewed(self, started: float) -> None:
        """The lease is ours as of a request that was started at monotonic time `started`."""
        self._renewed_at = started

    def close(self) -> None:
        """No write starts any more."""
        self._renewed_at = None

    @property
    def seconds_left(self) -> float:
        """Seconds until no write may start."""
        if self._renewed_at is None:
            return 0.0
        return self._renewed_at + self._times.renew_deadline - self._clock.monotonic()

    def check(self) -> float:
        """See `client.Fence`: what starts now must end before another process can hold the lease."""
        left = self.seconds_left
        if left <= 0:
            raise Fenced("the leader lease has not been renewed in time; this process no longer writes")
        return left + self._times.duration - self._times.renew_deadline


class LeaderLease:
    """One process' part in the election for the Lease `namespace`/`name`; `client` must be an unfenced one."""

    def __init__(
        self,
        client: Client,
        clock: Clock,
        *,
        namespace: str,
        name: str,
        identity: str,
        times: LeaseTimes,
        fence: LeaseFence,
    ) -> None:
        self._client = client
        self._clock = clock
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._times = times
        self._fence = fence
        self._held: Object | None = None
        self._seen: tuple[str, float] | None = None

    async def acquire(self, tell: Callable[[str], None] = lambda _: None) -> None:
        """Returns when the lease is ours; waits as long as that takes, also for an API server that is away.

        `tell` hears, after each try, what keeps this process from taking part; empty when nothing does.
        """
        told = ""
        while True:
            obstacle = ""
            try:
                holder = await self._try_to_take()
            except ApiError as error:
                holder = "another candidate"
                if not error.is_conflict:
                    obstacle = self._obstacle(error)
                    holder = f"an unknown process: {obstacle}"
            tell(obstacle)
            if self._held is not None:
                logger.info("leading: %s holds Lease %s/%s", self._identity, self._namespace, self._name)
                return
            if holder != told:
                logger.info("standing by: Lease %s/%s is held by %s", self._namespace, self._name, holder)
                told = holder
            await self._clock.sleep(self._times.watch_period)

    async def keep(self) -> str:
        """Renews until the lease is lost; returns why. The fence has closed by then."""
        while self._held is not None:
            await self._clock.sleep(self._times.retry_period)
            started = self._clock.monotonic()
            try:
                self._held = await self._client.replace(LEASE, self._renewal(self._held))
                self._fence.renewed(started)
            except ApiError as error:
                if error.is_conflict and await self._was_taken():
                    return self._lose("another process holds it")
                if self._fence.seconds_left <= 0:
                    return self._lose(f"it could not be renewed: {error}")
                logger.warning("the leader lease was not renewed, trying again: %s", error)
        return "it was released"

    async def release(self) -> None:
        """Gives the lease up so that another process takes over at once; call when no write is under way."""
        self._fence.close()
        held, self._held = self._held, None
        if held is None:
            return
        spec = {**held["spec"], "holderIdentity": "", "leaseDurationSeconds": 1}
        try:
            await self._client.replace(LEASE, {**held, "spec": spec})
        except ApiError as error:
            logger.warning("the leader lease was not released, it will expire: %s", error)

    async def _try_to_take(self) -> str:
        """Takes the lease if it is free; returns who has it otherwise."""
        started = self._clock.monotonic()
        try:
            found = await self._client.get(LEASE, self._namespace, self._name)
        except ApiError as error:
            if not error.is_not_found:
                raise
            metadata = {"name": self._name, "namespace": self._namespace}
            wanted = {"apiVersion": LEASE.api_version, "kind": LEASE.kind, "metadata": metadata, "spec": self._spec(0)}
            self._held = await self._client.create(LEASE, wanted)
            self._fence.renewed(started)
            return self._identity
        spec = found.get("spec") or {}
        holder = spec.get("holderIdentity") or ""
        if holder and not self._has_expired(found):
            return str(holder)
        transitions = int(spec.get("leaseTransitions") or 0) + 1
        self._held = await self._client.replace(LEASE, {**found, "spec": self._spec(transitions)})
        self._fence.renewed(started)
        return self._identity

    def _has_expired(self, lease: Object) -> bool:
        """Whether the lease has not changed for its duration by our own clock: clocks of machines differ."""
        version, now = lease["metadata"]["resourceVersion"], self._clock.monotonic()
        if self._seen is None or self._seen[0] != version:
            self._seen = (version, now)
        return now - self._seen[1] >= float(
            (lease.get("spec") or {}).get("leaseDurationSeconds") or self._times.duration
        )

    async def _was_taken(self) -> bool:
        """After a conflict: whether somebody else holds the lease, or only its version has moved."""
        try:
            found = await self._client.get(LEASE, self._namespace, self._name)
        except ApiError as error:
            return error.is_not_found
        self._held = found
        return bool((found.get("spec") or {}).get("holderIdentity") != self._identity)

    def _obstacle(self, error: ApiError) -> str:
        text = f"Lease {self._namespace}/{self._name} cannot be had: {error}"
        if error.status not in (403, 404):
            return text
        return f"{text}: the chart makes the Lease and the Role for it, `helm upgrade` makes them anew"

    def _lose(self, why: str) -> str:
        self._fence.close()
        self._held = None
        return why

    def _spec(self, transitions: int) -> dict[str, Any]:
        now = micro_timestamp(self._clock.now())
        return {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": int(self._times.duration),
            "acquireTime": now,
            "renewTime": now,
            "leaseTransitions": transitions,
        }

    def _renewal(self, held: Object) -> Object:
        return {**held, "spec": {**held["spec"], "renewTime": micro_timestamp(self._clock.now())}}
