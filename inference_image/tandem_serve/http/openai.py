"""What the routes of OpenAI's form share: the checks that come first, the job, an answer in one piece or a stream."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from fastapi import Request
from starlette.responses import JSONResponse, Response

from tandem_serve.engine.client import Generation
from tandem_serve.engine.types import SamplingParams, Update
from tandem_serve.http import handoff, prompts, run
from tandem_serve.http.errors import invalid
from tandem_serve.http.prompts import Prompt
from tandem_serve.http.run import Job
from tandem_serve.http.schema import OpenAIRequest
from tandem_serve.http.sse import EventStream
from tandem_serve.service import Service

CLIENT_GONE = 499

Events = Callable[[Generation, AsyncIterator[Update]], AsyncIterator[bytes]]


def check(service: Service, body: OpenAIRequest) -> None:
    """What needs no work on the prompt. Raises 400, 404 or 503."""
    service.ready  # noqa: B018  (raises the 503 before anything else is looked at)
    prompts.check_model(service, body.model)
    body.refuse_unsupported()
    if body.stream_options is not None and not body.stream:
        raise invalid("stream_options: set stream to true with it", param="stream_options")
    prompts.check_tokens(service, body.stop_token_ids or (), param="stop_token_ids")
    prompts.check_tokens(service, body.logit_bias or (), param="logit_bias")


def make_job(
    service: Service,
    body: OpenAIRequest,
    *,
    request_id: str,
    found: list[Prompt],
    sampling: SamplingParams,
    capped: bool,
) -> Job:
    """The job of a checked request, with its part of a hand-off. Raises a 400 for one that this role has no part in."""
    n = body.n or 1
    part = handoff.parse(service, body.kv_transfer_params, found, n=n, stream=bool(body.stream))
    remote = part.remote
    if remote is not None and sampling.prompt_logprobs is not None:
        remote = None  # the log probabilities of a prompt take its computation
        service.metrics.fell_back("prompt_logprobs", tokens=sum(len(prompt.tokens) for prompt in found))
    return Job(
        request_id=request_id,
        prompts=found,
        sampling=sampling,
        n=n,
        keep_kv=part.keep_kv,
        offers_early=part.offers_early,
        remote=remote,
        capped=capped,
    )


async def answered(request: Request, work: Callable[[], Awaitable[dict[str, Any]]]) -> Response:
    """The answer in one piece; the work is given up when the client goes away."""
    answer = await run.unless_gone(request, work)
    return Response(status_code=CLIENT_GONE) if answer is None else JSONResponse(answer)


async def streamed(request: Request, service: Service, job: Job, events: Events) -> Response:
    """The answer as a stream that begins with its first token: an error before it still gets its own status."""
    generation = run.start(service, job)
    updates = await run.unless_gone(request, lambda: run.held_until_first(service, generation))
    return Response(status_code=CLIENT_GONE) if updates is None else EventStream(events(generation, updates))


async def offered(request: Request, service: Service, job: Job) -> Response:
    """The offer of a prefill worker as soon as some KV is there, while it computes the rest."""
    generation = run.start(service, job)
    updates = await run.unless_gone(request, lambda: run.held_until_first(service, generation, counts=handoff.has_kv))
    if updates is None:
        return Response(status_code=CLIENT_GONE)
    return EventStream(handoff.early(service, job, generation, updates))
