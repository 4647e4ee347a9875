"""Which tokens of which sequences go into the next step. Pure: no torch, no clock, no threads.

Iteration-level continuous batching: every step takes one token of each decoding sequence and fills the rest of the
token budget with prefill chunks. A sequence is admitted only when the KV memory it may ever need is free, so a running
one never has to be stopped for memory; a sequence that waits blocks those behind it. Beginnings of prompts that are in
memory are not computed again, nor twice at the same time.
"""

from __future__ import annotations

from dataclasses import dataclass

from tandem_serve.engine.blocks import BLOCK_TOKENS, BlockPool, blocks_for
from tandem_serve.engine.fair_queue import FairQueue
from tandem_serve.engine.sequence import Sequence, Stage


@dataclass(frozen=True, kw_only=True)
class SchedulerLimits:
    """`max_running` sequences hold a slot at once; a step takes at most `token_budget` tokens."""

    max_running: int
    token_budget: int
    prefix_reuse: bool = True

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

    def __init__(self, *, limits: SchedulerLimits, blocks: BlockPool) -> None:
        self.limits = limits
        self.blocks = blocks
        self.waiting = FairQueue()
        self.running: list[Sequence] = []
        self.reused_tokens = 0
        """Prompt tokens whose KV was found in memory."""
        self._by_id: dict[int, Sequence] = {}

    def add(self, sequence: Sequence) -> None:
        """Queues a sequence. It must fit into the empty memory, or it would block the queue for ever."""
        self.waiting.add(sequence)
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
        while len(self.running) < self.limits.max_running and (sequence := self.waiting.first()) is not None:
            if not self._place(sequence):
                break
            self.waiting.remove(sequence)
            sequence.stage = Stage.RUNNING if sequence.pull_from is None else Stage.PULLING
            self.running.append(sequence)
            admitted.append(sequence)
        return admitted

    def plan(self, *, prefill_room: int | None = None) -> tuple[Chunk, ...]:
        """The next step: decoding sequences first, then prefill chunks while the budget lasts.

        `prefill_room` limits the prefill tokens beside decoding sequences.
        """
        chunks = list(self.decoding())
        room = self.limits.token_budget - len(chunks)
        if chunks and prefill_room is not None:
            room = min(room, prefill_room)
        chunks += self.prefill(room)
        chunks.sort(key=lambda chunk: chunk.count > 1)  # stable: a prefill chunk of one token joins the single ones
        return tuple(chunks)

    def decoding(self) -> tuple[Chunk, ...]:
        """One token for each sequence that lacks no other."""
        return tuple(Chunk(one, one.computed, 1, True) for one in self._ready() if one.remaining == 1)

    def prefill(self, room: int) -> tuple[Chunk, ...]:
        """At most `room` tokens of prompts.

        The sequence that came first gets at least half of the room, so none waits for ever; the rest goes to those with
        the least left, so short prompts need not wait for long ones.
        """
        return tuple(self._prefill([sequence for sequence in self._ready() if sequence.remaining > 1], room))

    def _ready(self) -> list[Sequence]:
        ready = [sequence for sequence in self.running if sequence.stage is Stage.RUNNING]
        for sequence in ready:
            self._reuse_more(sequence)
        return ready

    def computed(self, chunk: Chunk) -> None:
        """The chunk's KV is in memory: from now on others may find its full blocks."""
        sequence = chunk.sequence
        sequence.computed = chunk.start + chunk.count
        self.register(sequence)

    def register(self, sequence: Sequence) -> None:
        """Makes the full blocks of what is computed known."""
        if self.limits.prefix_reuse:
            for index in range(sequence.registered, sequence.computed // BLOCK_TOKENS):
                self.blocks.register(sequence.blocks[index], sequence.digest(index))
                sequence.registered = index + 1

    def remove(self, sequence: Sequence, *, keep_kv: bool = False) -> None:
        """Takes a sequence out, queued or running, and frees its memory unless the caller takes the KV over."""
        del self._by_id[sequence.seq_id]
        if sequence.stage is Stage.WAITING:
            self.waiting.remove(sequence)
        else:
            self.running.remove(sequence)
        sequence.stage = Stage.DONE
        if not keep_kv:
            self.blocks.release(sequence.blocks)
            sequence.blocks, sequence.kv = [], None

    def _place(self, sequence: Sequence) -> bool:
        """Finds memory for all that the sequence may need, the part that is there already included."""
        found = self._found(sequence, 0)
        self.blocks.hold(found)
        new = self.blocks.allocate(blocks_for(sequence.reserve) - len(found))
        if new is None:
            self.blocks.release(found)
            return False
        sequence.blocks = found + new
        self._reused(sequence, len(found))
        return True

    def _found(self, sequence: Sequence, first: int) -> list[int]:
        """Blocks in memory that continue the sequence's first `first` blocks."""
        found: list[int] = []
        if self.limits.prefix_reuse:
            for index in range(first, sequence.reusable):
                block = self.blocks.find(sequence.digest(index))
                if block is None:
                    break
                found.append(block)
        return found

    def _reuse_more(self, sequence: Sequence) -> None:
        """Blocks that others computed while this sequence waited for its turn replace its own, still empty ones."""
        first, offset = divmod(sequence.computed, BLOCK_TOKENS)
        if offset or first >= sequence.reusable:
            return
        found = self._found(sequence, first)
        if found:
            self.blocks.hold(found)
            self.blocks.release(sequence.blocks[first : first + len(found)])
            sequence.blocks[first : first + len(found)] = found
            sequence.kv = None
            self._reused(sequence, first + len(found))

    def _reused(self, sequence: Sequence, blocks: int) -> None:
        self.reused_tokens += blocks * BLOCK_TOKENS - sequence.computed
        sequence.computed = blocks * BLOCK_TOKENS
        sequence.registered = blocks

    def _prefill(self, sequences: list[Sequence], room: int) -> list[Chunk]:
        """Shares `room` tokens out: half or more to the first, the rest to those with the least left."""
        sequences = self._not_twice(sequences)
        if not sequences or room < 1:
            return []
        first, others = sequences[0], sorted(sequences[1:], key=lambda one: one.remaining)
        kept = min(first.remaining, -(-room // 2))
        counts = []
        for sequence in others:
            counts.append(min(sequence.remaining, room - kept))
            room -= counts[-1]
        shares = [(first, min(first.remaining, room)), *zip(others, counts, strict=True)]
        return [Chunk(one, one.computed, count, count == one.remaining) for one, count in shares if count]

    def _not_twice(self, sequences: list[Sequence]) -> list[Sequence]:
        """Of sequences whose next block is the same only the first one computes it; the others then find it."""
        if not self.limits.prefix_reuse:
            return sequences
        beside = [one for one in self.running if one.stage is Stage.BESIDE]
        claimed = {one.digest(block) for one in beside if (block := one.computed // BLOCK_TOKENS) < one.reusable}
        chosen = []
        for sequence in sequences:
            block = sequence.computed // BLOCK_TOKENS
            if block < sequence.reusable:
                if sequence.digest(block) in claimed:
                    continue
                claimed.add(sequence.digest(block))
            chosen.append(sequence)
        return chosen
