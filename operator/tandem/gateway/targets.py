"""Chooses the workers of each attempt: what is ready, minus what rests, minus what this request has tried already."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from tandem.gateway.balance import Policy, choose
from tandem.gateway.circuit import Circuits
from tandem.gateway.fleet import Endpoint, Fleet, FleetView, Role
from tandem.gateway.pairing import Pair, choose_pair
from tandem.gateway.retry import Verdict


@dataclass(slots=True)
class Tried:
    """The workers that failed for one request; `final` ones may not be asked again."""

    failed: set[str] = field(default_factory=set)
    final: set[str] = field(default_factory=set)

    def add(self, endpoint: Endpoint, verdict: Verdict) -> None:
        """Notes a failure at this worker."""
        self.failed.add(endpoint.identity)
        if not verdict.same_worker:
            self.final.add(endpoint.identity)


class Targets:
    """Choice and book-keeping of workers: requests in flight, rests, turns. `draw` gives numbers in [0, 1)."""

    def __init__(
        self, view: FleetView, *, policy: Policy, clock: Callable[[], float], draw: Callable[[], float]
    ) -> None:
        self._view = view
        self._policy = policy
        self._draw = draw
        self._turns = itertools.count()
        self._in_flight: dict[str, int] = {}
        self.circuits = Circuits(clock)
        view.subscribe(self._follow)

    @property
    def fleet(self) -> Fleet:
        """The fleet as known now."""
        return self._view.fleet

    @property
    def in_flight(self) -> Mapping[str, int]:
        """Requests under way by `Endpoint.identity`; workers without any are absent."""
        return self._in_flight

    def pick_pair(self, tried: Tried, *, prefix: bytes, hand_off: bool) -> Pair | None:
        """The pair for the next attempt (decode alone when `hand_off` is False or nothing else can be had), or None."""
        prefills = self._fresh(Role.PREFILL, tried) if hand_off else []
        decodes = self._usable(Role.DECODE, tried)
        return choose_pair(prefills, decodes, choose=self._chooser(prefix), draw=self._draw())

    def pick_one(self, roles: Sequence[Role], tried: Tried, *, prefix: bytes) -> Endpoint | None:
        """A worker of the first of `roles` that has one, or None."""
        for role in roles:
            if candidates := self._usable(role, tried):
                return self._chooser(prefix)(candidates)
        return None

    def begin(self, endpoint: Endpoint) -> None:
        """A request goes to this worker."""
        self._in_flight[endpoint.identity] = self._in_flight.get(endpoint.identity, 0) + 1
        self.circuits.begin(endpoint.identity)

    def end(self, endpoint: Endpoint) -> None:
        """It is over, whatever came of it."""
        left = self._in_flight[endpoint.identity] - 1
        if left:
            self._in_flight[endpoint.identity] = left
        else:
            del self._in_flight[endpoint.identity]

    def _fresh(self, role: Role, tried: Tried) -> list[Endpoint]:
        """Ready, not resting, not tried by this request."""
        return [
            endpoint
            for endpoint in self.fleet.ready(role)
            if endpoint.identity not in tried.failed and self.circuits.closed(endpoint.identity)
        ]

    def _usable(self, role: Role, tried: Tried) -> list[Endpoint]:
        """The best there is: fresh ones, else resting ones, else those that may be asked a second time."""
        if fresh := self._fresh(role, tried):
            return fresh
        allowed = [endpoint for endpoint in self.fleet.ready(role) if endpoint.identity not in tried.final]
        return [endpoint for endpoint in allowed if endpoint.identity not in tried.failed] or allowed

    def _chooser(self, prefix: bytes) -> Callable[[Sequence[Endpoint]], Endpoint]:
        turn = next(self._turns)
        return lambda candidates: choose(self._policy, candidates, loads=self._in_flight, turn=turn, prefix=prefix)

    def _follow(self, before: Fleet, after: Fleet) -> None:
        was_ready = {endpoint.identity for endpoint in before.endpoints if endpoint.ready}
        now_ready = {endpoint.identity for endpoint in after.endpoints if endpoint.ready}
        self.circuits.forget((before.identities - after.identities) | (now_ready - was_ready))
