"""`POST /v1/chat/completions`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from tandem_serve.engine.client import Generation
from tandem_serve.engine.types import Finish, FinishReason, TokenLogprob, Update
from tandem_serve.http import errors, handoff, openai, prompts, run, shapes, structured, tools
from tandem_serve.http.logprobs import chat_logprobs
from tandem_serve.http.run import Job, Result
from tandem_serve.http.schema import ChatRequest
from tandem_serve.http.sse import DONE, event
from tandem_serve.http.tool_parser import PlainText, Reader
from tandem_serve.http.tools import Calling
from tandem_serve.service import Service


def router(service: Service) -> APIRouter:
    """The route."""
    routes = APIRouter()

    @routes.post("/v1/chat/completions")
    async def chat(request: Request, body: ChatRequest) -> Response:
        openai.check(service, body)
        calling = tools.of_request(service, body)
        job = await prepare(service, body, errors.request_id_of(request), calling)
        if job.offers_early:
            return await openai.offered(request, service, job)
        chat = _Chat(service, body, job, calling)
        if body.stream:
            return await openai.streamed(request, service, job, chat.events)
        return await openai.answered(request, chat.answer)

    return routes


async def prepare(service: Service, body: ChatRequest, request_id: str, calling: Calling | None) -> Job:
    """Checks a request against model and limits. Raises 400, 404, 413 or 503."""
    if body.top_logprobs is not None and not body.logprobs:
        raise errors.invalid("top_logprobs: set logprobs to true with it", param="top_logprobs")
    documents = None if calling is None else calling.documents
    found = [await prompts.from_chat(service, body.messages, body.chat_template_kwargs, tools=documents)]
    param = "max_tokens" if body.max_completion_tokens is None else "max_completion_tokens"
    asked = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
    max_tokens, capped = run.new_tokens(service, found, asked, param=param)
    if calling is None:
        grammar = await structured.of_response_format(service, body.response_format)
    else:
        grammar = await tools.grammar(service, calling)
    sampling = shapes.sampling_params(
        body,
        max_tokens=max_tokens,
        logprobs=(body.top_logprobs or 0) if body.logprobs else None,
        grammar=grammar,
        special=calling is not None and calling.begin_token is not None,
    )
    return openai.make_job(service, body, request_id=request_id, found=found, sampling=sampling, capped=capped)


class _Chat:
    """One request on its way to its answer."""

    def __init__(self, service: Service, body: ChatRequest, job: Job, calling: Calling | None) -> None:
        self._service = service
        self._body = body
        self._job = job
        self._calling = calling

    async def answer(self) -> dict[str, Any]:
        """The answer in one piece."""
        service, job = self._service, self._job
        async with run.start(service, job) as generation:
            results = await run.collect(service, generation)
        choices = [self._choice(index, result) for index, result in enumerate(results)]
        answer = shapes.envelope("chatcmpl", "chat.completion", service.settings.served_name)
        answer |= {"choices": choices, "usage": shapes.usage(job, shapes.total_new_tokens(results)), **job.notes()}
        return answer | self._prompt_ids() | handoff.offer(service, job)

    def _choice(self, index: int, result: Result) -> dict[str, Any]:
        reader = self._reader()
        message = tools.message([*reader.push(result.text), *reader.finish()])
        choice = {
            "index": index,
            "message": message,
            "logprobs": self._logprobs(result.logprobs),
            "finish_reason": self._finish_reason(result.finish, called="tool_calls" in message),
        }
        return choice | ({"token_ids": result.token_ids} if self._body.return_token_ids else {})

    async def events(self, generation: Generation, updates: AsyncIterator[Update]) -> AsyncIterator[bytes]:
        """The answer as events."""
        body, job = self._body, self._job
        head = shapes.envelope("chatcmpl", "chat.completion.chunk", self._service.settings.served_name) | job.notes()
        if body.include_usage:
            head["usage"] = None
        readers = [self._reader() for _ in range(job.n)]
        new_tokens = 0
        async with generation:
            for index in range(job.n):
                first = _chunk(index, {"role": "assistant", "content": ""})
                yield event(head | (self._prompt_ids() if index == 0 else {}) | {"choices": [first]})
            async for update in updates:
                error = run.failure_of(self._service, update)
                if error is not None:
                    yield event(errors.error_body(error, job.request_id))
                    return
                new_tokens += len(update.token_ids)
                index = generation.index[update.seq_id]
                for choice in self._choices(index, readers[index], update):
                    yield event(head | {"choices": [choice]})
            if body.include_usage:
                yield event(head | {"choices": [], "usage": shapes.usage(job, new_tokens)})
            yield DONE

    def _choices(self, index: int, reader: Reader, update: Update) -> Iterator[dict[str, Any]]:
        """The chunks of one update. What belongs to its tokens goes with the first."""
        parts = reader.push(update.text)
        if update.finish is not None:
            parts += reader.finish()
        ids = {"token_ids": list(update.token_ids)} if self._body.return_token_ids else {}
        logprobs = self._logprobs(list(update.logprobs))
        if not parts and (self._body.logprobs or ids):
            parts = [""]
        for number, part in enumerate(parts):
            of_tokens = {"logprobs": logprobs, **ids} if number == 0 else {}
            yield _chunk(index, tools.delta(part)) | of_tokens
        if update.finish is not None:
            yield _chunk(index, {}, self._finish_reason(update.finish, called=reader.calls > 0))

    def _reader(self) -> Reader:
        return PlainText() if self._calling is None else self._calling.parser()

    def _finish_reason(self, finish: Finish | None, *, called: bool) -> str | None:
        if finish is None:
            return None
        return "tool_calls" if called and finish.reason is FinishReason.STOP else shapes.finish_reason(finish.reason)

    def _logprobs(self, entries: list[TokenLogprob]) -> dict[str, Any] | None:
        return chat_logprobs(self._service.loaded.codec, entries) if self._body.logprobs else None

    def _prompt_ids(self) -> dict[str, Any]:
        return {"prompt_token_ids": list(self._job.prompts[0].tokens)} if self._body.return_token_ids else {}


def _chunk(index: int, delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}
