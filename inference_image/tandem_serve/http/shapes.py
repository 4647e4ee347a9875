"""The parts that all OpenAI answers share."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from typing import Any

from tandem_serve.engine.grammar import Grammar
from tandem_serve.engine.types import FinishReason, SamplingParams
from tandem_serve.http.run import Job, Result
from tandem_serve.http.schema import OpenAIRequest


def envelope(prefix: str, kind: str, model: str) -> dict[str, Any]:
    """Id, object, created and model of an answer or a stream."""
    return {"id": f"{prefix}-{uuid.uuid4().hex}", "object": kind, "created": int(time.time()), "model": model}


def usage(job: Job, completion_tokens: int) -> dict[str, int]:
    """The figures of `usage`."""
    prompt = job.prompt_tokens
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt + completion_tokens,
    }


def total_new_tokens(results: Sequence[Result]) -> int:
    """New tokens of all sequences."""
    return sum(len(result.token_ids) for result in results)


def finish_reason(reason: FinishReason) -> str:
    """`stop` or `length`; the other reasons are errors."""
    return str(reason)


def sampling_params(
    request: OpenAIRequest,
    *,
    max_tokens: int,
    logprobs: int | None,
    prompt_logprobs: int | None = None,
    grammar: Grammar | None = None,
    special: bool = False,
) -> SamplingParams:
    """The sampling of an OpenAI request; absent means OpenAI's defaults. `special` keeps special tokens in the text."""
    top_k = request.top_k or 0
    return SamplingParams(
        max_tokens=max_tokens,
        temperature=1.0 if request.temperature is None else request.temperature,
        top_p=1.0 if request.top_p is None else request.top_p,
        top_k=max(top_k, 0),
        min_p=request.min_p or 0.0,
        presence_penalty=request.presence_penalty or 0.0,
        frequency_penalty=request.frequency_penalty or 0.0,
        repetition_penalty=1.0 if request.repetition_penalty is None else request.repetition_penalty,
        logit_bias=tuple((int(token), bias) for token, bias in (request.logit_bias or {}).items()),
        seed=request.seed,
        min_tokens=request.min_tokens or 0,
        ignore_eos=bool(request.ignore_eos),
        stop=request.stops,
        stop_token_ids=frozenset(request.stop_token_ids or ()),
        logprobs=logprobs,
        prompt_logprobs=prompt_logprobs,
        grammar=grammar,
        skip_special_tokens=request.skip_special_tokens is not False and not special,
    )
