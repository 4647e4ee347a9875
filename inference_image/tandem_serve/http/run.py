"""From a checked request to running sequences, and from their news to one result or a stream of them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from starlette.requests import Request

from tandem_serve.engine.client import Generation
from tandem_serve.engine.types import (
    Finish,
    FinishReason,
    PromptLogprobs,
    RemoteKv,
    SamplingParams,
    SequenceRequest,
    TokenLogprob,
    Update,
)
from tandem_serve.http import errors
from tandem_serve.http.prompts import Prompt
from tandem_serve.http.schema import MAX_CHOICES
from tandem_serve.service import Service

log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Job:
    """What one request wants: `n` sequences of each prompt."""

    request_id: str
    prompts: list[Prompt]
    sampling: SamplingParams
    n: int = 1
    keep_kv: tuple[str, ...] | None = None
    """One id per prompt, when this worker shall keep their KV for another."""
    offers_early: bool = False
    """The KV is offered while it is computed, and not with the answer."""
    remote: tuple[RemoteKv, ...] | None = None
    """One per prompt, when a prefill worker has their KV."""
    capped: bool = False
    """Fewer new tokens than asked for, because of a limit."""

    @property
    def prompt_tokens(self) -> int:
        """Tokens of all prompts."""
        return sum(len(prompt.tokens) for prompt in self.prompts)

    def notes(self) -> dict[str, Any]:
        """What the answer says about limits that took effect."""
        notes: dict[str, Any] = {"capped": True} if self.capped else {}
        cut = [prompt for prompt in self.prompts if prompt.truncated_from is not None]
        if cut:
            notes["prompt_truncated"] = True
            notes["prompt_tokens_kept"] = sum(len(prompt.tokens) for prompt in cut)
            notes["prompt_tokens_given"] = sum(prompt.truncated_from or 0 for prompt in cut)
        return notes


def new_tokens(service: Service, prompts: list[Prompt], asked: int | None, *, param: str) -> tuple[int, bool]:
    """How many new tokens a request gets, and whether that is fewer than it asked for.

    The configured limit caps silently and is reported; what does not fit into the context is refused (400).
    """
    config, facts = service.settings.config, service.ready.facts
    longest = max(len(prompt.tokens) for prompt in prompts)
    room = min(facts.max_model_len, facts.kv_capacity_tokens + 1) - longest
    if asked is None:
        return min(config.default_max_new_tokens, room), False
    allowed = min(asked, config.max_new_tokens)
    if allowed > room:
        message = f"{param}: {longest} prompt tokens and {allowed} new tokens do not fit into {longest + room}"
        raise errors.invalid(message, param=param, code="context_length_exceeded")
    return allowed, allowed < asked


def start(service: Service, job: Job) -> Generation:
    """Starts all sequences of a job: prompt by prompt, n of each. Raises 400, 429 or 503."""
    if len(job.prompts) * job.n > MAX_CHOICES:
        message = f"{len(job.prompts)} prompts x n={job.n}: at most {MAX_CHOICES} sequences in one request"
        raise errors.invalid(message, param="n")
    deadline = service.deadline()
    requests = []
    for number, prompt in enumerate(job.prompts):
        for copy in range(job.n):
            seed = job.sampling.seed
            requests.append(
                SequenceRequest(
                    seq_id=-1,
                    request_id=job.request_id,
                    prompt=prompt.tokens,
                    sampling=job.sampling if seed is None or copy == 0 else _reseeded(job.sampling, seed + copy),
                    deadline=deadline,
                    keep_kv=None if job.keep_kv is None else job.keep_kv[number],
                    remote=None if job.remote is None else job.remote[number],
                )
            )
    generation = service.start(requests)
    log.debug(
        "generation",
        extra={
            "request_id": job.request_id,
            "sequences": len(requests),
            "prompt_tokens": job.prompt_tokens,
            "max_new_tokens": job.sampling.max_tokens,
        },
    )
    return generation


def _reseeded(sampling: SamplingParams, seed: int) -> SamplingParams:
    return replace(sampling, seed=seed)


@dataclass
class Result:
    """One finished sequence."""

    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    prompt_logprobs: PromptLogprobs | None = None
    finish: Finish | None = None

    def add(self, update: Update) -> None:
        """Takes over news."""
        self.text += update.text
        self.token_ids += update.token_ids
        self.logprobs += update.logprobs
        if update.prompt_logprobs is not None:
            self.prompt_logprobs = update.prompt_logprobs
        if update.finish is not None:
            self.finish = update.finish


async def collect(service: Service, generation: Generation) -> list[Result]:
    """Waits for all sequences. When one fails the others are stopped too, and the error is raised after the last."""
    results = [Result() for _ in generation.requests]
    failure: errors.ApiError | None = None
    async for update in generation.updates():
        results[generation.index[update.seq_id]].add(update)
        error = failure_of(service, update)
        if error is not None and failure is None:
            failure = error
            generation.cancel()
    if failure is not None:
        raise failure
    return results


def failure_of(service: Service, update: Update) -> errors.ApiError | None:
    """The error that an ended sequence stands for, if any."""
    if update.finish is None:
        return None
    match update.finish.reason:
        case FinishReason.TIMEOUT:
            return errors.timed_out(service.settings.config.generation_timeout)
        case FinishReason.ERROR:
            return errors.failed(update.finish.message or "The generation failed.")
        case FinishReason.IMPOSSIBLE:
            return errors.invalid(update.finish.message or "No token can be chosen.", param=None)
        case FinishReason.CANCELLED:
            return errors.failed("The generation was cancelled.")
    return None


def _has_tokens(update: Update) -> bool:
    return bool(update.token_ids)


async def held_until_first(
    service: Service, generation: Generation, *, counts: Callable[[Update], bool] = _has_tokens
) -> AsyncIterator[Update]:
    """The news of a stream that count, once the first of them is there: an error before gets a status of its own."""
    updates = (update async for update in generation.updates() if counts(update) or update.finish is not None)
    try:
        first = await anext(updates)
    except BaseException:
        generation.cancel()
        raise
    error = failure_of(service, first)
    if error is not None:
        generation.cancel()
        raise error
    return _with_first(first, updates)


async def _with_first(first: Update, rest: AsyncIterator[Update]) -> AsyncIterator[Update]:
    yield first
    async for update in rest:
        yield update


async def unless_gone(request: Request, work: Callable[[], Awaitable[T]]) -> T | None:
    """Runs `work` and gives it up when the client goes away (None then)."""
    task = asyncio.ensure_future(work())
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        return await task if task.done() else None
    finally:
        for one in (task, gone):
            one.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
