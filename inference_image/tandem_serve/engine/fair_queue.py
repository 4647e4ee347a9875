"""The queue: in order of arrival, but a request with many sequences does not hold up the requests after it. Pure.

The first sequence of a request stands where it arrived; every further one lets one later request pass. Nothing waits
for ever: what arrives late enough stands behind.
"""

from __future__ import annotations

import bisect

from tandem_serve.engine.sequence import Sequence


class FairQueue:
    """Waiting sequences, the next one first."""

    def __init__(self) -> None:
        self._line: list[tuple[int, int, Sequence]] = []
        self._last_place: dict[str, int] = {}
        self._requests = 0
        self._sequences = 0

    def __len__(self) -> int:
        return len(self._line)

    def add(self, sequence: Sequence) -> None:
        """Queues a sequence behind those of its own request and among the later ones of others."""
        request_id = sequence.request.request_id
        last = self._last_place.get(request_id)
        if last is None:
            self._requests += 1
        self._sequences += 1
        place = self._requests if last is None else last + 1
        self._last_place[request_id] = place
        bisect.insort(self._line, (place, self._sequences, sequence))

    def first(self) -> Sequence | None:
        """The one whose turn it is."""
        return self._line[0][2] if self._line else None

    def remove(self, sequence: Sequence) -> None:
        """Takes one out."""
        index = next(index for index, (_, _, one) in enumerate(self._line) if one is sequence)
        place, _, _ = self._line.pop(index)
        if self._last_place.get(sequence.request.request_id) == place:  # its last one may have gone before
            del self._last_place[sequence.request.request_id]
