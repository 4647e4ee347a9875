"""Prompts are computed beside the steps of running sequences: in a thread of their own, where CPUs would be idle.

A step of a small model runs on one thread (see `device.threads_for`). Without this, running sequences wait while
prompts are computed, and the other CPUs have nothing to do.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from tandem_serve.engine.scheduler import Chunk

Forward = Callable[[], Tensor]
"""Runs the model; returns logits."""


class Beside(Protocol):
    """What runs one step beside those of the engine's thread."""

    def start(self, forward: Forward) -> Future[Tensor]:
        """Begins a step and returns at once. The one before must have ended."""


class BesideThread:
    """Runs steps in a thread that ends with the process."""

    def __init__(self) -> None:
        self._inbox: queue.SimpleQueue[tuple[Forward, Future[Tensor]]] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="beside", daemon=True)
        self._thread.start()

    def start(self, forward: Forward) -> Future[Tensor]:
        """See `Beside`."""
        logits: Future[Tensor] = Future()
        self._inbox.put((forward, logits))
        return logits

    def _run(self) -> None:
        while True:
            forward, logits = self._inbox.get()
            try:
                logits.set_result(forward())
            except Exception as error:
                logits.set_exception(error)
            del forward, logits  # nothing of a step is kept until the next


@dataclass(frozen=True, slots=True)
class Begun:
    """A step that runs beside. The memory of its sequences stays theirs until it has ended, also when they end."""

    plan: tuple[Chunk, ...]
    logits: Future[Tensor]
    since: float
    """When it began, by the engine's clock."""
    freed: list[tuple[int, ...]] = field(default_factory=list)
    """Blocks to release at its end."""

    def uses(self, blocks: tuple[int, ...]) -> bool:
        """Whether it may write to any of these blocks."""
        own = {block for chunk in self.plan for block in chunk.sequence.blocks}
        return not own.isdisjoint(blocks)
