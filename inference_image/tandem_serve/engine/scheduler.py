"""Which tokens of which sequences go into the next step. Pure: no torch, no clock, no threads.

Iteration-level continuous batching: every step takes one token of each decoding sequence and fills the rest of the
token budget with prefill chunks in order of arrival. A sequence is admitted only when the KV memory it may ever need
is free, so a running one never has to be stopped for memory; a sequence that waits blocks those behind it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from tandem_serve.engine.kv_cache import KvCache
from tandem_serve.engine.sequence import Sequence, Stage


@dataclass(frozen=True, kw_only=True)
class SchedulerLimits:
    """`max_running` sequences hold a slot at once; a step takes at most `token_budget` tokens."""

    max_running: int
    token_budget: int

    def __post_init__(self) -> None:
        if self.token_budget < self.max_running:
            raise ValueError(f"token budget {self.token_budget} < {self.max_running} running sequences")


@dataclass(frozen=True, slots=True)
class Chunk:
    """Feed `count` tokens of `sequence` from `start`; when `samples`, a new token comes out."""

    sequence: Sequence
    start: int
    count: int
    samples: bool


class Scheduler:
    """Holds the queue and the running sequences; owned by the engine thread."""

    def __init__(self, *, limits: SchedulerLimits, kv: KvCache) -> None:
        self.limits = limits
        self.kv = kv
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self._by_id: dict[int, Sequence] = {}

    def add(self, sequence: Sequence) -> None:
        """Queues a sequence. It must fit into the empty memory (`fits`), or it would block the queue for ever."""
        self.waiting.append(sequence)
        self._by_id[sequence.seq_id] = sequence

    def get(self, seq_id: int) -> Sequence | None:
        """The sequence, while it is queued or runs."""
        return self._by_id.get(seq_id)

    @property
    def busy(self) -> bool:
        """Whether anything is queued or runs."""
        return bool(self._by_id)

    def all_sequences(self) -> tuple[Sequence, ...]:
        """Everything queued or running."""
        return tuple(self._by_id.values())

    def admit(self) -> list[Sequence]:
        """Moves sequences from the queue to the running ones, in order, while slots and memory last."""
        admitted = []
        while self.waiting and len(self.running) < self.limits.max_running:
            sequence = self.waiting[0]
            kv = self.kv.allocate(sequence.reserve)
            if kv is None:
                break
            self.waiting.popleft()
            sequence.kv = kv
            sequence.stage = Stage.PULLING if sequence.request.remote is not None else Stage.RUNNING
            self.running.append(sequence)
            admitted.append(sequence)
        return admitted

    def plan(self) -> tuple[Chunk, ...]:
        """The next step: decoding sequences first, then prefill chunks while the budget lasts."""
        ready = [sequence for sequence in self.running if sequence.stage is Stage.RUNNING]
        chunks = [Chunk(sequence, sequence.computed, 1, True) for sequence in ready if sequence.remaining == 1]
        room = self.limits.token_budget - len(chunks)
        for sequence in ready:
            if sequence.remaining > 1 and room > 0:
                count = min(sequence.remaining, room)
                chunks.append(Chunk(sequence, sequence.computed, count, count == sequence.remaining))
                room -= count
        chunks.sort(key=lambda chunk: chunk.count > 1)  # stable: a prefill chunk of one token joins the single ones
        return tuple(chunks)

    def remove(self, sequence: Sequence, *, keep_kv: bool = False) -> None:
        """Takes a sequence out, queued or running, and frees its memory unless the caller takes the KV over."""
        del self._by_id[sequence.seq_id]
        if sequence.stage is Stage.WAITING:
            self.waiting.remove(sequence)
        else:
            self.running.remove(sequence)
        sequence.stage = Stage.DONE
        if sequence.kv is not None and not keep_kv:
            self.kv.free(sequence.kv)
            sequence.kv = None
