"""The engine without its thread: queue, step, commit. Everything here runs on the engine thread.

`step` is one iteration: end what is late, admit what fits, run the model once on the plan, sample, release text.
It returns the news for the HTTP side; the thread hands all of them over at once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from tandem_serve.engine import prompt_logprobs, sampling
from tandem_serve.engine.beside import Begun, Beside
from tandem_serve.engine.blocks import BLOCK_TOKENS, BlockPool
from tandem_serve.engine.choosing import Choice, NoChoice, choose
from tandem_serve.engine.decoder import TextDecoder
from tandem_serve.engine.detokenizer import Decode
from tandem_serve.engine.kv_cache import KvMemory, SequenceKv
from tandem_serve.engine.pace import Pace
from tandem_serve.engine.runner import Runner, kv_of
from tandem_serve.engine.scheduler import Chunk, Scheduler, SchedulerLimits
from tandem_serve.engine.sequence import Sequence, Stage
from tandem_serve.engine.types import EngineStats, Finish, FinishReason, Kept, SequenceRequest, TokenLogprob, Update

if TYPE_CHECKING:
    from tandem_serve.engine.transfer.wire import KvPart

log = logging.getLogger(__name__)
_BESIDE_TOKENS = 256
"""Of prompts at once beside running sequences: a prompt that comes meanwhile waits for some 70 ms (58 M parameters)."""


class EngineCore:
    """Generates the sequences given to it. Not thread-safe: one thread owns it, the model and the KV memory."""

    def __init__(
        self,
        *,
        runner: Runner,
        memory: KvMemory,
        limits: SchedulerLimits,
        decode: Decode,
        decode_special: Decode,
        eos_ids: frozenset[int],
        clock: Callable[[], float],
        beside: tuple[Beside, Runner] | None = None,
    ) -> None:
        """`beside`: where and by which runner prompts are computed while others get tokens. None: in the same steps."""
        self.runner = runner
        self.scheduler = Scheduler(limits=limits, blocks=BlockPool(memory.blocks))
        self.stats = EngineStats(kv_capacity_tokens=memory.blocks * BLOCK_TOKENS, kv_block_tokens=BLOCK_TOKENS)
        self._memory = memory
        self._pace = Pace()
        self._decode = decode
        self._decode_special = decode_special
        self._eos_ids = eos_ids
        self._clock = clock
        self._beside = beside
        self._begun: Begun | None = None

    # ---- commands -------------------------------------------------------------------------------------------------
    def add(self, request: SequenceRequest) -> None:
        """Queues a sequence; the caller has checked that it fits into the empty memory."""
        decode = self._decode if request.sampling.skip_special_tokens else self._decode_special
        sequence = Sequence(request, decoder=TextDecoder.for_request(request, decode))
        if request.sampling.temperature > 0:
            sequence.generator = sampling.make_generator(request.sampling.seed, self.runner.device)
        sequence.biases = sampling.Biases.of(request.sampling, self.runner.device)
        if request.sampling.min_tokens:
            sequence.ends = sorted(self._eos_ids | request.sampling.stop_token_ids)
        if request.sampling.grammar is not None:
            sequence.grammar = request.sampling.grammar.start()
        self.scheduler.add(sequence)

    def cancel(self, seq_id: int) -> Update | None:
        """Ends a sequence whose client has gone; None when it had ended already."""
        sequence = self.scheduler.get(seq_id)
        return None if sequence is None else self._end(sequence, FinishReason.CANCELLED)

    def adopt(self, seq_id: int, part: KvPart) -> None:
        """KV from a prefill worker has come, in order. The last prompt token is always computed here."""
        sequence = self.scheduler.get(seq_id)
        if sequence is None or sequence.stage is not Stage.PULLING:
            return
        sequence.stage = Stage.RUNNING  # stays so when this fails: what is missing is computed here then
        if part.first != sequence.computed:
            raise ValueError(f"KV from token {part.first} where {sequence.computed} comes next")
        part.copy_into(kv_of(sequence, self._memory))
        sequence.computed += part.count
        self.scheduler.register(sequence)
        self.stats.prompt_tokens_transferred += part.count
        if sequence.remaining > 1:
            sequence.stage = Stage.PULLING

    def prefill_locally(self, seq_id: int) -> None:
        """No (more) KV can be had: this worker computes the rest of the prompt itself."""
        sequence = self.scheduler.get(seq_id)
        if sequence is not None and sequence.stage is Stage.PULLING:
            sequence.stage = Stage.RUNNING

    def release(self, kv: SequenceKv) -> None:
        """Frees KV that outlived its sequence (`keep_kv`)."""
        self._free(kv.blocks)

    # ---- iteration ------------------------------------------------------------------------------------------------
    def step(self) -> tuple[list[Update], bool]:
        """One iteration. Returns the news and whether the model ran (False: wait for a command or a deadline)."""
        updates = self._expire()
        updates += [
            Update(seq_id=sequence.seq_id, started=True, pull_from=sequence.pull_from)
            for sequence in self.scheduler.admit()
        ]
        updates += self._ended_beside(wait=False)
        decoding = self.scheduler.decoding() if self._beside is not None else ()
        if decoding:
            self._begin_beside()
            updates += self._run(decoding)
            ran = True
        elif self._begun is not None:
            updates += self._ended_beside(wait=True)
            ran = True
        else:
            plan = self.scheduler.plan(prefill_room=self._pace.room())
            updates += self._run(plan)
            ran = bool(plan)
        self._measure()
        return updates, ran

    @property
    def beside_since(self) -> float | None:
        """When the step began that runs beside, if one does. May be read by any thread."""
        begun = self._begun
        return None if begun is None else begun.since

    def next_deadline(self) -> float | None:
        """The earliest deadline of what is queued or runs."""
        deadlines = [s.request.deadline for s in self.scheduler.all_sequences() if s.request.deadline is not None]
        return min(deadlines, default=None)

    def end_all(self, reason: FinishReason, message: str) -> list[Update]:
        """Ends everything."""
        return [self._end(sequence, reason, message=message) for sequence in self.scheduler.all_sequences()]

    def _expire(self) -> list[Update]:
        now = self._clock()
        return [
            self._end(sequence, FinishReason.TIMEOUT)
            for sequence in self.scheduler.all_sequences()
            if sequence.request.deadline is not None and sequence.request.deadline <= now
        ]

    def _begin_beside(self) -> None:
        """Has prompts that wait computed beside, unless some are."""
        if self._beside is None or self._begun is not None:
            return
        plan = self.scheduler.prefill(min(_BESIDE_TOKENS, self.scheduler.limits.token_budget))
        if not plan:
            return
        beside, runner = self._beside
        # Views of the blocks are made here: only this thread touches sequences.
        for chunk in plan:
            kv_of(chunk.sequence, self._memory)
            chunk.sequence.stage = Stage.BESIDE
        rows = _rows(plan)
        logits = beside.start(lambda: runner.forward(plan, rows, self._memory))
        self._begun = Begun(plan, logits, since=self._clock())

    def _ended_beside(self, *, wait: bool) -> list[Update]:
        """What has come of the step beside; with `wait` it is waited for."""
        begun = self._begun
        if begun is None or not (wait or begun.logits.done()):
            return []
        try:
            logits = begun.logits.result()
            for chunk in begun.plan:
                if chunk.sequence.stage is Stage.BESIDE:
                    chunk.sequence.stage = Stage.RUNNING
            return self._take(begun.plan, logits)
        except Exception as error:
            return self._failed(begun.plan, error)
        finally:
            self._begun = None
            for blocks in begun.freed:
                self.scheduler.blocks.release(blocks)

    def _run(self, plan: tuple[Chunk, ...]) -> list[Update]:
        """One step on this thread."""
        if not plan:
            return []
        began = self._clock()
        try:
            return self._take(plan, self.runner.forward(plan, _rows(plan), self._memory), began=began)
        except Exception as error:
            return self._failed(plan, error)

    def _failed(self, plan: tuple[Chunk, ...], error: Exception) -> list[Update]:
        requests = sorted({chunk.sequence.request.request_id for chunk in plan})
        log.error("a step failed; its sequences end", extra={"request_ids": requests}, exc_info=error)
        message = f"the model failed: {type(error).__name__}"
        return [
            self._end(chunk.sequence, FinishReason.ERROR, message=message)
            for chunk in plan
            if chunk.sequence.stage is not Stage.DONE
        ]

    def _take(self, plan: tuple[Chunk, ...], logits: torch.Tensor, *, began: float | None = None) -> list[Update]:
        """Takes over what a step has computed, for those that have not ended meanwhile."""
        sampled_rows, sequences = [], []
        row = 0
        for chunk in plan:
            sequence, first = chunk.sequence, row
            row += len(prompt_logprobs.rows(chunk, 0)) + chunk.samples
            self.stats.prompt_tokens_computed += max(
                0, min(chunk.start + chunk.count, sequence.prompt_len) - chunk.start
            )
            if sequence.stage is Stage.DONE:
                continue
            self.scheduler.computed(chunk)
            prompt_logprobs.collect(chunk, logits[first : row - chunk.samples])
            if chunk.samples:
                sampled_rows.append(row - 1)
                sequences.append(sequence)
        self.stats.steps += 1
        self.stats.batch_sizes[len(plan)] = self.stats.batch_sizes.get(len(plan), 0) + 1
        chosen = choose(logits if len(sampled_rows) == row else logits[sampled_rows], sequences)
        if began is not None and (sequences or self.runner.device.type == "cpu"):  # else the step has been started only
            self._learn(plan, self._clock() - began)
        updates = [self._commit_safely(sequence, choice) for sequence, choice in zip(sequences, chosen, strict=True)]
        return updates + [
            Update(seq_id=one.seq_id, kept=Kept(one.kv, one.computed))
            for one in (chunk.sequence for chunk in plan)
            if one.request.keep_kv is not None and one.stage is not Stage.DONE
        ]

    def _learn(self, plan: tuple[Chunk, ...], seconds: float) -> None:
        prompt_tokens = sum(chunk.count for chunk in plan if chunk.count > 1)
        decoding = sum(chunk.count == 1 for chunk in plan)
        self._pace.learn(decoding=decoding, prompt_tokens=prompt_tokens, seconds=seconds)

    def _commit_safely(self, sequence: Sequence, choice: Choice | NoChoice) -> Update:
        """A failure with one sequence ends that one only."""
        try:
            if isinstance(choice, NoChoice):
                return self._end(sequence, choice.reason, message=choice.message)
            return self._commit(sequence, choice.token, choice.logprobs)
        except Exception as error:
            request = {"request_id": sequence.request.request_id}
            log.exception("a token could not be taken over; its sequence ends", extra=request)
            return self._end(sequence, FinishReason.ERROR, message=f"the engine failed: {type(error).__name__}")

    def _commit(self, sequence: Sequence, token: int, logprobs: tuple[TokenLogprob, ...]) -> Update:
        """Adds a sampled token to its sequence and decides whether that ends it."""
        params = sequence.request.sampling
        first = sequence.generated == 0
        prompt = sequence.prompt_logprobs if first and params.prompt_logprobs is not None else None
        if params.max_tokens == 0:
            return self._end(sequence, FinishReason.LENGTH, prompt_logprobs=prompt)
        sequence.tokens.append(token)
        self.stats.generated_tokens += 1
        text, finish = "", None
        if (token in self._eos_ids and not params.ignore_eos) or token in params.stop_token_ids:
            text, finish = sequence.decoder.flush(), FinishReason.STOP
        else:
            text, found = sequence.decoder.push(token)
            if sequence.grammar is not None and found is None:
                sequence.grammar.accept(token)
            if found is not None:
                finish = FinishReason.STOP
            elif sequence.grammar is not None and sequence.grammar.complete:
                text, finish = text + sequence.decoder.flush(), FinishReason.STOP
            elif sequence.generated >= params.max_tokens:
                text, finish = text + sequence.decoder.flush(), FinishReason.LENGTH
        news = {"text": text, "token_ids": (token,), "logprobs": logprobs, "prompt_logprobs": prompt}
        if finish is not None:
            return self._end(sequence, finish, **news)
        return Update(seq_id=sequence.seq_id, **news)

    def _end(self, sequence: Sequence, reason: FinishReason, *, message: str | None = None, **news: object) -> Update:
        """Takes the sequence out, and its memory with it unless that is handed over: somebody may be reading it."""
        keep = sequence.request.keep_kv is not None and sequence.stage is not Stage.WAITING
        beside = sequence.stage is Stage.BESIDE
        kv = (sequence.kv or self._memory.view(sequence.blocks)) if keep else None
        self.scheduler.remove(sequence, keep_kv=keep or beside)
        if beside and not keep:
            self._free(tuple(sequence.blocks))
        self.stats.finished[reason] = self.stats.finished.get(reason, 0) + 1
        self._measure()
        log.debug(
            "sequence ended",
            extra={
                "request_id": sequence.request.request_id,
                "reason": str(reason),
                "prompt_tokens": sequence.prompt_len,
                "new_tokens": sequence.generated,
            },
        )
        return Update(seq_id=sequence.seq_id, finish=Finish(reason=reason, message=message, kv=kv), **news)  # type: ignore[arg-type]

    def _free(self, blocks: tuple[int, ...]) -> None:
        """Releases memory, or has it released when the step that runs beside no longer uses it."""
        if self._begun is not None and self._begun.uses(blocks):
            self._begun.freed.append(blocks)
        else:
            self.scheduler.blocks.release(blocks)

    def _measure(self) -> None:
        self.stats.running = len(self.scheduler.running)
        self.stats.waiting = len(self.scheduler.waiting)
        self.stats.kv_used_tokens = self.scheduler.blocks.used * BLOCK_TOKENS
        self.stats.prompt_tokens_reused = self.scheduler.reused_tokens


def _rows(plan: tuple[Chunk, ...]) -> list[int]:
    """The places of a step whose logits are wanted: of prompt tokens that are asked about, and of last ones."""
    rows: list[int] = []
    begin = 0
    for chunk in plan:
        rows += prompt_logprobs.rows(chunk, begin)
        begin += chunk.count
        if chunk.samples:
            rows.append(begin - 1)
    return rows
