"""The thread that owns the engine: takes commands, steps, and hands news over once per step."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from tandem_serve.engine.core import EngineCore
from tandem_serve.engine.kv_cache import SequenceKv
from tandem_serve.engine.types import EngineStats, FinishReason, SequenceRequest, Update

if TYPE_CHECKING:
    from tandem_serve.engine.transfer.wire import KvPart

log = logging.getLogger(__name__)
Command = Callable[[EngineCore], Update | None]


class EngineThread:
    """Runs an `EngineCore`. Every public method may be called from any thread and returns at once.

    `sink` gets the news of a step, in the engine thread; it must only pass them on.
    """

    def __init__(self, core: EngineCore, *, sink: Callable[[list[Update]], None], clock: Callable[[], float]) -> None:
        self._core = core
        self._sink = sink
        self._clock = clock
        self._inbox: queue.SimpleQueue[Command | None] = queue.SimpleQueue()
        self._busy_since: float | None = None
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    @property
    def stats(self) -> EngineStats:
        """Figures of the core."""
        return self._core.stats

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def submit(self, request: SequenceRequest) -> None:
        """Queues a sequence."""
        self._inbox.put(lambda core: core.add(request))

    def cancel(self, seq_id: int) -> None:
        """Ends a sequence before the next token."""
        self._inbox.put(lambda core: core.cancel(seq_id))

    def adopt(self, seq_id: int, part: KvPart) -> None:
        """See `EngineCore.adopt`."""
        self._inbox.put(lambda core: core.adopt(seq_id, part))

    def prefill_locally(self, seq_id: int) -> None:
        """See `EngineCore.prefill_locally`."""
        self._inbox.put(lambda core: core.prefill_locally(seq_id))

    def release(self, kv: SequenceKv) -> None:
        """See `EngineCore.release`."""
        self._inbox.put(lambda core: core.release(kv))

    def stop(self, timeout: float | None = None) -> None:
        """Ends what is left and the thread."""
        self._inbox.put(None)
        self._thread.join(timeout)

    def stuck_for(self) -> float:
        """Seconds since the oldest step under way began; 0 while waiting. Infinite when the thread died."""
        if self._thread.ident is not None and not self._thread.is_alive():
            return float("inf")
        began = [since for since in (self._busy_since, self._core.beside_since) if since is not None]
        return self._clock() - min(began) if began else 0.0

    def _run(self) -> None:
        idle = True
        while True:
            updates, stopping = self._take(idle=idle)
            if stopping:
                updates += self._core.end_all(FinishReason.ERROR, "the server stops")
                self._sink(updates)
                return
            self._busy_since = self._clock()
            news, ran = self._step()
            self._busy_since = None
            updates += news
            if updates:
                self._sink(updates)
            idle = not ran

    def _step(self) -> tuple[list[Update], bool]:
        try:
            return self._core.step()
        except Exception:
            log.exception("an iteration failed; all sequences end", extra={"request_ids": self._requests()})
            return self._core.end_all(FinishReason.ERROR, "the engine failed"), True

    def _requests(self) -> list[str]:
        return sorted({sequence.request.request_id for sequence in self._core.scheduler.all_sequences()})

    def _take(self, *, idle: bool) -> tuple[list[Update], bool]:
        """Runs the waiting commands; when idle, waits for one or for the next deadline."""
        updates: list[Update] = []
        try:
            command = self._inbox.get(block=idle, timeout=self._patience() if idle else None)
            while command is not None:
                update = self._apply(command)
                if update is not None:
                    updates.append(update)
                command = self._inbox.get(block=False)
            return updates, True
        except queue.Empty:
            return updates, False

    def _apply(self, command: Command) -> Update | None:
        try:
            return command(self._core)
        except Exception:
            log.exception("a command to the engine failed")
            return None

    def _patience(self) -> float | None:
        deadline = self._core.next_deadline()
        return None if deadline is None else max(0.0, deadline - self._clock())
