"""`POST /v1/chat/completions`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from tandem_serve.engine.client import Generation
from tandem_serve.engine.types import TokenLogprob, Update
from tandem_serve.http import errors, handoff, openai, prompts, run, shapes
from tandem_serve.http.logprobs import chat_logprobs
from tandem_serve.http.run import Job
from tandem_serve.http.schema import ChatRequest
from tandem_serve.http.sse import DONE, event
from tandem_serve.service import Service


def router(service: Service) -> APIRouter:
    """The route."""
    routes = APIRouter()

    @routes.post("/v1/chat/completions")
    async def chat(request: Request, body: ChatRequest) -> Response:
        job = await prepare(service, body, errors.request_id_of(request))
        if body.stream:
            return await openai.streamed(request, service, job, partial(_events, service, body, job))
        return await openai.answered(request, partial(_answer, service, body, job))

    return routes


async def prepare(service: Service, body: ChatRequest, request_id: str) -> Job:
    """Checks a request against model and limits. Raises 400, 404, 413 or 503."""
    openai.check(service, body)
    if body.top_logprobs is not None and not body.logprobs:
        raise errors.invalid("top_logprobs: set logprobs to true with it", param="top_logprobs")
    found = [await prompts.from_chat(service, body.messages, body.chat_template_kwargs)]
    param = "max_tokens" if body.max_completion_tokens is None else "max_completion_tokens"
    asked = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
    max_tokens, capped = run.new_tokens(service, found, asked, param=param)
    alternatives = (body.top_logprobs or 0) if body.logprobs else None
    sampling = shapes.sampling_params(body, max_tokens=max_tokens, logprobs=alternatives)
    return openai.make_job(service, body, request_id=request_id, found=found, sampling=sampling, capped=capped)


async def _answer(service: Service, body: ChatRequest, job: Job) -> dict[str, Any]:
    async with run.start(service, job) as generation:
        results = await run.collect(service, generation)
    choices = [
        {
            "index": index,
            "message": {"role": "assistant", "content": result.text},
            "logprobs": _logprobs(service, body, result.logprobs),
            "finish_reason": shapes.finish_reason(result.finish.reason) if result.finish else None,
        }
        for index, result in enumerate(results)
    ]
    answer = shapes.envelope("chatcmpl", "chat.completion", service.settings.served_name)
    answer |= {"choices": choices, "usage": shapes.usage(job, shapes.total_new_tokens(results)), **job.notes()}
    return answer | handoff.offer(service, job)


def _logprobs(service: Service, body: ChatRequest, entries: list[TokenLogprob]) -> dict[str, Any] | None:
    return chat_logprobs(service.loaded.codec, entries) if body.logprobs else None


async def _events(
    service: Service,
    body: ChatRequest,
    job: Job,
    generation: Generation,
    updates: AsyncIterator[Update],
) -> AsyncIterator[bytes]:
    head = shapes.envelope("chatcmpl", "chat.completion.chunk", service.settings.served_name) | job.notes()
    if body.include_usage:
        head["usage"] = None

    def chunk(index: int, delta: dict[str, Any], logprobs: dict[str, Any] | None, finish: str | None) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        return event(head | {"choices": [choice]})

    new_tokens = 0
    async with generation:
        for index in range(job.n):
            yield chunk(index, {"role": "assistant", "content": ""}, None, None)
        async for update in updates:
            index = generation.index[update.seq_id]
            error = run.failure_of(service, update)
            if error is not None:
                yield event(errors.error_body(error, job.request_id))
                return
            new_tokens += len(update.token_ids)
            logprobs = _logprobs(service, body, list(update.logprobs))
            if update.text or body.logprobs:
                yield chunk(index, {"content": update.text}, logprobs, None)
            if update.finish is not None:
                yield chunk(index, {}, None, shapes.finish_reason(update.finish.reason))
        if body.include_usage:
            yield event(head | {"choices": [], "usage": shapes.usage(job, new_tokens)})
        yield DONE
