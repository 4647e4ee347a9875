"""How long sequences wait, take to their first token and from one token to the next, as their clients see it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tandem_serve.engine.types import SequenceRequest, Update
from tandem_serve.metrics import ServerMetrics
from tandem_serve.spans import Spans


class _Times:
    """When a sequence came, and when its last token did."""

    __slots__ = ("arrived", "last")

    def __init__(self, now: float) -> None:
        self.arrived = now
        self.last: float | None = None


class Timings:
    """Belongs to the event loop; `clock` is in seconds. Spans are told the same news as metrics."""

    def __init__(self, metrics: ServerMetrics, spans: Spans, *, clock: Callable[[], float]) -> None:
        self._metrics = metrics
        self._spans = spans
        self._clock = clock
        self._open: dict[int, _Times] = {}

    def begin(self, requests: Sequence[SequenceRequest]) -> None:
        """These sequences have just been queued."""
        now = self._clock()
        self._open |= {request.seq_id: _Times(now) for request in requests}
        self._spans.begin(requests)

    def on_update(self, update: Update) -> None:
        """Takes the news of one sequence."""
        self._spans.on_update(update)
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
