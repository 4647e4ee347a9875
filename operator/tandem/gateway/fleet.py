"""What the router knows of the workers: one frozen value, replaced as a whole when something changes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property


class Role(StrEnum):
    """What a worker does for a request."""

    PREFILL = "prefill"
    DECODE = "decode"
    AGG = "agg"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One worker: its name (the pod's), where it listens, what it does, and whether it takes new requests.

    `bootstrap_port` is where an SGLang prefill worker is found by decode; None: where all of a deployment's are.
    """

    name: str
    address: str
    port: int
    role: Role
    revision: str
    ready: bool
    bootstrap_port: int | None = None
    # A pod that comes back under its old name has another address, and owes nothing to its predecessor's failures.
    identity: str = field(init=False, repr=False, compare=False)
    url: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        host = f"[{self.address}]" if ":" in self.address else self.address
        object.__setattr__(self, "identity", f"{self.name}@{host}:{self.port}")
        object.__setattr__(self, "url", f"http://{host}:{self.port}")


@dataclass(frozen=True, slots=True)
class RoleCount:
    """How many workers of a role and revision are known, and how many of them are ready."""

    role: Role
    revision: str
    known: int
    ready: int

    def __str__(self) -> str:
        return f"{self.role} {self.revision or '(no revision)'}: {self.ready}/{self.known}"


@dataclass(frozen=True)
class Fleet:
    """Every known worker, ordered by name so that equal knowledge is an equal value."""

    endpoints: tuple[Endpoint, ...] = ()

    @classmethod
    def of(cls, endpoints: Iterable[Endpoint]) -> Fleet:
        """The fleet of `endpoints`, in any order and free of duplicates."""
        return cls(tuple(sorted(endpoints, key=lambda endpoint: (endpoint.role, endpoint.identity))))

    @cached_property
    def _ready_by_role(self) -> dict[Role, tuple[Endpoint, ...]]:
        return {
            role: tuple(endpoint for endpoint in self.endpoints if endpoint.ready and endpoint.role is role)
            for role in Role
        }

    @cached_property
    def identities(self) -> frozenset[str]:
        """The identities of all known workers."""
        return frozenset(endpoint.identity for endpoint in self.endpoints)

    @cached_property
    def counts(self) -> tuple[RoleCount, ...]:
        """Known and ready workers of each role and revision, ordered."""
        known: dict[tuple[Role, str], int] = {}
        ready: dict[tuple[Role, str], int] = {}
        for endpoint in self.endpoints:
            pool = (endpoint.role, endpoint.revision)
            known[pool] = known.get(pool, 0) + 1
            ready[pool] = ready.get(pool, 0) + endpoint.ready
        return tuple(
            RoleCount(role=role, revision=revision, known=known[role, revision], ready=ready[role, revision])
            for role, revision in sorted(known)
        )

    def ready(self, role: Role) -> tuple[Endpoint, ...]:
        """The workers of a role that take new requests."""
        return self._ready_by_role[role]

    def describe(self) -> str:
        """Ready and known workers in words, for messages: `prefill abc: 1/1, decode abc: 0/2`."""
        return ", ".join(str(count) for count in self.counts) or "no worker is known"


class FleetView:
    """The latest `Fleet`, for those who read it at each request and those who want to hear of changes.

    `synced` is False until a source has published once; `trouble` says why a source cannot follow at the moment.
    """

    def __init__(self) -> None:
        self.fleet = Fleet()
        self.synced = False
        self.trouble: str | None = "no worker list has been read yet"
        self._listeners: list[Callable[[Fleet, Fleet], None]] = []

    def subscribe(self, listener: Callable[[Fleet, Fleet], None]) -> None:
        """Calls `listener(before, after)` at every change."""
        self._listeners.append(listener)

    def publish(self, fleet: Fleet) -> None:
        """Replaces the fleet; listeners hear only of a difference."""
        before, self.fleet = self.fleet, fleet
        self.synced, self.trouble = True, None
        if before != fleet:
            for listener in self._listeners:
                listener(before, fleet)
