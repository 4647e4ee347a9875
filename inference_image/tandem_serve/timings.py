"""How long sequences wait, take to their first token and from one token to the next, as their clients see it."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from tandem_serve.engine.types import Update
from tandem_serve.metrics import ServerMetrics


class _Times:
    """When a sequence came, and when its last token did."""

    __slots__ = ("arrived", "last")

    def __init__(self, now: float) -> None:
        self.arrived = now
        self.last: float | None = None


class Timings:
    """Belongs to the event loop; `clock` is in seconds."""

    def __init__(self, metrics: ServerMetrics, *, clock: Callable[[], float]) -> None:
        self._metrics = metrics
        self._clock = clock
        self._open: dict[int, _Times] = {}

    def begin(self, seq_ids: Iterable[int]) -> None:
        """These sequences have just been queued."""
        now = self._clock()
        self._open |= {seq_id: _Times(now) for seq_id in seq_ids}

    def on_update(self, update: Update) -> None:
        """Takes the news of one sequence."""
        times = self._open.get(update.seq_id)
        if times is None:
            return
        now, metrics = self._clock(), self._metrics
        if update.started:
            metrics.queue_seconds.observe(now - times.arrived)
        if update.token_ids:
            if times.last is None:
                metrics.first_token_seconds.observe(now - times.arrived)
            else:
                metrics.next_token_seconds.observe(now - times.last)
            times.last = now
        if update.finish is not None:
            metrics.request_seconds.observe(now - times.arrived)
            del self._open[update.seq_id]
