"""Workers that could not be reached rest for a while: a killed pod costs few slow attempts, and not one per request.

After the rest a single request tries the worker (the others still avoid it); its outcome ends the rest or doubles it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

FIRST_REST_SECONDS = 1.0
LONGEST_REST_SECONDS = 10.0


@dataclass(slots=True)
class _Rest:
    seconds: float
    until: float
    probing: bool = False


class Circuits:
    """The resting workers, by `Endpoint.identity`; `clock` gives monotonic seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._resting: dict[str, _Rest] = {}

    @property
    def resting(self) -> Collection[str]:
        """The workers set aside, probed or not."""
        return self._resting.keys()

    def closed(self, identity: str) -> bool:
        """Whether a request may go to this worker now."""
        rest = self._resting.get(identity)
        return rest is None or (not rest.probing and self._clock() >= rest.until)

    def begin(self, identity: str) -> None:
        """A request goes to this worker."""
        if rest := self._resting.get(identity):
            rest.probing = True

    def failed(self, identity: str) -> None:
        """It could not be reached."""
        rest = self._resting.get(identity)
        now = self._clock()
        if rest is None:
            self._resting[identity] = _Rest(seconds=FIRST_REST_SECONDS, until=now + FIRST_REST_SECONDS)
        elif rest.probing or now >= rest.until:
            rest.seconds = min(rest.seconds * 2, LONGEST_REST_SECONDS)
            rest.until = now + rest.seconds
            rest.probing = False

    def reached(self, identity: str) -> None:
        """It answered, whatever it said."""
        self._resting.pop(identity, None)

    def abandoned(self, identity: str) -> None:
        """The request ended without a verdict on the worker (its client went away)."""
        if rest := self._resting.get(identity):
            rest.probing = False

    def forget(self, identities: Collection[str]) -> None:
        """Drops what is known of these workers: they are gone, or have just become ready."""
        for identity in identities:
            self._resting.pop(identity, None)
