"""`POST /v1/completions`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from tandem_serve.engine.client import Generation
from tandem_serve.engine.types import TokenLogprob, Update
from tandem_serve.http import errors, handoff, openai, prompts, run, shapes, structured
from tandem_serve.http.logprobs import completion_logprobs
from tandem_serve.http.run import Job, Result
from tandem_serve.http.schema import CompletionRequest
from tandem_serve.http.sse import DONE, event
from tandem_serve.service import Service

KIND = "text_completion"
MAX_PROMPT_LOGPROBS = 2**18


def router(service: Service) -> APIRouter:
    """The route."""
    routes = APIRouter()

    @routes.post("/v1/completions")
    async def completions(request: Request, body: CompletionRequest) -> Response:
        job = await prepare(service, body, errors.request_id_of(request))
        if job.offers_early:
            return await openai.offered(request, service, job)
        if body.stream:
            return await openai.streamed(request, service, job, partial(_events, service, body, job))
        return await openai.answered(request, partial(_answer, service, body, job))

    return routes


async def prepare(service: Service, body: CompletionRequest, request_id: str) -> Job:
    """Checks a request against model and limits. Raises 400, 404, 413 or 503."""
    openai.check(service, body)
    found = await prompts.from_completion(service, body.prompt)
    if body.max_tokens == 0 and not body.echo:
        raise errors.invalid("max_tokens: 0 makes sense only with echo", param="max_tokens")
    if body.echo and body.logprobs is not None:
        _check_logprobs(sum(len(prompt.tokens) for prompt in found) * (body.n or 1), body.logprobs)
    max_tokens, capped = run.new_tokens(service, found, body.max_tokens, param="max_tokens")
    sampling = shapes.sampling_params(
        body,
        max_tokens=max_tokens,
        logprobs=body.logprobs,
        prompt_logprobs=body.logprobs if body.echo else None,
        grammar=await structured.of_response_format(service, body.response_format),
    )
    return openai.make_job(service, body, request_id=request_id, found=found, sampling=sampling, capped=capped)


def _check_logprobs(tokens: int, alternatives: int) -> None:
    """Raises a 400: written down, each log probability takes some hundred bytes."""
    asked = tokens * (1 + alternatives)
    if asked > MAX_PROMPT_LOGPROBS:
        raise errors.invalid(
            f"logprobs: with echo, {tokens} prompt tokens and {alternatives} alternatives are {asked} log "
            f"probabilities, and one request may have {MAX_PROMPT_LOGPROBS}: send fewer prompts at once",
            param="logprobs",
        )


async def _answer(service: Service, body: CompletionRequest, job: Job) -> dict[str, Any]:
    async with run.start(service, job) as generation:
        results = await run.collect(service, generation)
    choices = [
        {
            "index": index,
            "text": _echoed(service, body, job, index) + result.text,
            "logprobs": _logprobs(service, body, job, index, result),
            "finish_reason": shapes.finish_reason(result.finish.reason) if result.finish else None,
            **(_token_ids(job, index, result.token_ids, first=True) if body.return_token_ids else {}),
        }
        for index, result in enumerate(results)
    ]
    answer = shapes.envelope("cmpl", KIND, service.settings.served_name)
    answer |= {"choices": choices, "usage": shapes.usage(job, shapes.total_new_tokens(results)), **job.notes()}
    return answer | handoff.offer(service, job)


def _token_ids(job: Job, index: int, new: list[int], *, first: bool) -> dict[str, Any]:
    prompt = {"prompt_token_ids": list(job.prompts[index // job.n].tokens)} if first else {}
    return {"token_ids": new, **prompt}


def _echoed(service: Service, body: CompletionRequest, job: Job, index: int) -> str:
    if not body.echo:
        return ""
    return service.loaded.codec.decode(
        job.prompts[index // job.n].tokens, skip_special=job.sampling.skip_special_tokens
    )


def _logprobs(
    service: Service, body: CompletionRequest, job: Job, index: int, result: Result, *, offset: int = 0
) -> dict[str, Any] | None:
    if body.logprobs is None:
        return None
    entries: list[TokenLogprob | None] = list(result.logprobs)
    ids = [entry.token_id for entry in result.logprobs]
    if result.prompt_logprobs is not None:
        entries = [*result.prompt_logprobs, *entries]
        ids = [*job.prompts[index // job.n].tokens, *ids]
    return completion_logprobs(
        service.loaded.codec,
        entries,
        ids=ids,
        offset=offset,
        alternatives=body.logprobs,
        skip_special=job.sampling.skip_special_tokens,
    )


async def _events(
    service: Service,
    body: CompletionRequest,
    job: Job,
    generation: Generation,
    updates: AsyncIterator[Update],
) -> AsyncIterator[bytes]:
    head = shapes.envelope("cmpl", KIND, service.settings.served_name) | job.notes()
    if body.include_usage:
        head["usage"] = None
    offsets = [0] * len(generation.requests)
    told: set[int] = set()
    """Choices whose prompt's tokens were sent."""
    new_tokens = 0
    async with generation:
        async for update in updates:
            index = generation.index[update.seq_id]
            error = run.failure_of(service, update)
            if error is not None:
                yield event(errors.error_body(error, job.request_id))
                return
            new_tokens += len(update.token_ids)
            piece = Result()
            piece.add(update)
            text = update.text
            if body.echo and offsets[index] == 0:
                text = _echoed(service, body, job, index) + text
            finish = shapes.finish_reason(update.finish.reason) if update.finish else None
            if not text and finish is None and body.logprobs is None and not body.return_token_ids:
                continue
            choice = {
                "index": index,
                "text": text,
                "logprobs": _logprobs(service, body, job, index, piece, offset=offsets[index]),
                "finish_reason": finish,
            }
            if body.return_token_ids:
                choice |= _token_ids(job, index, piece.token_ids, first=index not in told)
                told.add(index)
            offsets[index] += len(text)
            yield event(head | {"choices": [choice]})
        if body.include_usage:
            yield event(head | {"choices": [], "usage": shapes.usage(job, new_tokens)})
        yield DONE
