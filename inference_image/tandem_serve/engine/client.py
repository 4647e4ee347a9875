"""The asyncio side of the engine: starts generations, routes their news, counts what is in flight."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import replace
from typing import Protocol

from tandem_serve.engine.types import Finish, FinishReason, SequenceRequest, Update

LATE_SECONDS = 5.0
"""For a step of the engine to end, after a deadline."""


class Engine(Protocol):
    """What the client needs of the engine thread."""

    def submit(self, request: SequenceRequest) -> None:
        """Queues a sequence."""

    def cancel(self, seq_id: int) -> None:
        """Ends a sequence."""


class QueueFullError(Exception):
    """As many requests wait as may wait."""


class Generation:
    """The sequences of one request. Use as `async with`: what still runs at the end is cancelled."""

    def __init__(self, client: EngineClient, requests: tuple[SequenceRequest, ...]) -> None:
        self.requests = requests
        self.index = {request.seq_id: number for number, request in enumerate(requests)}
        self._client = client
        self._news: asyncio.Queue[Update] = asyncio.Queue()
        self._open = set(self.index)

    async def __aenter__(self) -> Generation:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.cancel()

    def cancel(self) -> None:
        """Asks the engine to end what still runs; its slots are free once the engine has answered."""
        for seq_id in self._open:
            self._client.cancel(seq_id)

    async def updates(self) -> AsyncIterator[Update]:
        """All news until every sequence has ended. Update.seq_id maps to the sequence's number by `index`."""
        ended = 0
        while ended < len(self.requests):
            update = await self._news.get()
            ended += update.finish is not None
            yield update

    def _deliver(self, update: Update) -> None:
        if update.finish is not None:
            self._open.discard(update.seq_id)
        self._news.put_nowait(update)


class EngineClient:
    """Belongs to one event loop. `max_running` and `max_queue` bound what is accepted."""

    def __init__(
        self,
        engine: Engine,
        *,
        max_running: int,
        max_queue: int,
        on_start: Callable[[SequenceRequest], None] = lambda _request: None,
        on_update: Callable[[SequenceRequest, Update], None] = lambda _request, _update: None,
    ) -> None:
        self._engine = engine
        self._max_running = max_running
        self._max_queue = max_queue
        self._on_start = on_start
        self._on_update = on_update
        self._ids = itertools.count()
        self._open: dict[int, tuple[SequenceRequest, Generation]] = {}
        self._overdue: set[int] = set()
        """Open ones whose clients have been told that their time is over."""
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def in_flight(self) -> int:
        """Sequences accepted and not ended."""
        return len(self._open)

    def check_room(self, sequences: int) -> None:
        """Raises `QueueFullError` when the queue is full and the sequences cannot all start at once."""
        waiting = max(0, self.in_flight - self._max_running)
        if waiting >= self._max_queue and self.in_flight + sequences > self._max_running:
            raise QueueFullError

    def start(self, requests: Iterable[SequenceRequest]) -> Generation:
        """Hands the sequences to the engine; their `seq_id`s are given here. Raises `QueueFullError`."""
        numbered = tuple(replace(request, seq_id=next(self._ids)) for request in requests)
        self.check_room(len(numbered))
        generation = Generation(self, numbered)
        for request in numbered:
            self._open[request.seq_id] = (request, generation)
            self._on_start(request)
        self._idle.clear()
        for request in numbered:
            self._engine.submit(request)
        return generation

    def cancel(self, seq_id: int) -> None:
        """Ends one sequence."""
        self._engine.cancel(seq_id)

    def deliver(self, updates: list[Update]) -> None:
        """Takes the news of one step, in the event loop."""
        for update in updates:
            entry = self._open.get(update.seq_id)
            if entry is None:
                continue
            request, generation = entry
            if update.finish is not None:
                del self._open[update.seq_id]
            self._on_update(request, update)
            if update.seq_id not in self._overdue:
                generation._deliver(update)
            elif update.finish is not None:
                self._overdue.remove(update.seq_id)
        if not self._open:
            self._idle.set()

    def expire(self, now: float) -> None:
        """Tells whoever waits beyond the time limit that it is over: the engine, which ends sequences, is in a step.

        The sequences stay in flight until the engine has ended them. `now` is on the clock of their deadlines.
        """
        finish = Finish(reason=FinishReason.TIMEOUT)
        for seq_id, (request, generation) in self._open.items():
            late = request.deadline is not None and now > request.deadline + LATE_SECONDS
            if late and seq_id not in self._overdue:
                self._overdue.add(seq_id)
                generation._deliver(Update(seq_id=seq_id, finish=finish))

    def fail_all(self, message: str) -> None:
        """Ends whatever is open here, without the engine, which does not answer any more."""
        finish = Finish(reason=FinishReason.ERROR, message=message)
        self.deliver([Update(seq_id=seq_id, finish=finish) for seq_id in self._open])

    async def drained(self) -> None:
        """Returns when nothing is in flight."""
        await self._idle.wait()
