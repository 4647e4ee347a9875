"""The server's own routes: `/`, `/generate`, `/model-info`, `/health`, `/livez`, `/metrics`."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from tandem_serve.engine.types import SamplingParams
from tandem_serve.http import errors, openai, prompts, run
from tandem_serve.http.run import Job
from tandem_serve.http.schema import HARD_MAX_NEW_TOKENS, GenerateRequest
from tandem_serve.service import Service, Status


def router(service: Service) -> APIRouter:
    """The routes."""
    routes = APIRouter()

    @routes.get("/")
    async def info() -> dict[str, Any]:
        return {
            "message": f"Tandem serves {service.settings.served_name}",
            "status": "running",
            "endpoints": {"generate": "/generate", "health": "/health", "model_info": "/model-info"},
        }

    @routes.post("/generate")
    async def generate(request: Request, body: GenerateRequest) -> Response:
        job = await prepare(service, body, errors.request_id_of(request))
        return await openai.answered(request, partial(_answer, service, job))

    @routes.get("/model-info")
    async def model_info() -> dict[str, Any]:
        facts = service.loaded.facts
        return {
            "model_name": service.settings.served_name,
            "device": facts.device,
            "model_type": facts.model_type,
            "vocab_size": facts.vocab_size,
            "dtype": facts.dtype,
            "parameters": facts.parameter_count,
            "size_mb": round(facts.weight_bytes / 1e6, 3),
            "max_model_len": facts.max_model_len,
            "role": service.settings.role,
        }

    @routes.get("/health")
    async def health() -> Response:
        return _health(service)

    @routes.get("/livez")
    async def livez() -> Response:
        if service.failure:
            return JSONResponse({"status": "stuck", "message": service.failure}, status_code=503)
        return JSONResponse({"status": "alive"})

    @routes.get("/metrics")
    async def metrics() -> Response:
        return Response(service.metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return routes


def _health(service: Service) -> Response:
    retry = {"Retry-After": "5"}
    if service.status is Status.READY:
        facts = service.loaded.facts
        healthy: dict[str, Any] = {"status": "healthy", "model_loaded": True, "device": facts.device}
        if service.refused_handoff is not None:
            healthy["refused_handoff"] = asdict(service.refused_handoff)
        return JSONResponse(healthy)
    body: dict[str, Any] = {"status": str(service.status), "model_loaded": service.model_loaded}
    if service.status is Status.LOADING:
        body |= {"message": "Model not loaded", **service.loading()}
    if service.failure:
        body["message"] = service.failure
    return JSONResponse(body, status_code=503, headers=retry)


async def prepare(service: Service, body: GenerateRequest, request_id: str) -> Job:
    """Checks a request against the limits. Raises 400, 413 or 503."""
    prompt = await prompts.from_text(service, body.prompt)
    asked = None if body.max_new_tokens is None else min(body.max_new_tokens, HARD_MAX_NEW_TOKENS)
    max_tokens, capped = run.new_tokens(service, [prompt], asked, param="max_new_tokens")
    sampling = SamplingParams(
        max_tokens=min(max_tokens, HARD_MAX_NEW_TOKENS),
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=body.top_k,
        seed=body.seed,
    )
    return Job(request_id=request_id, prompts=[prompt], sampling=sampling, n=body.num_return_sequences, capped=capped)


async def _answer(service: Service, job: Job) -> dict[str, Any]:
    async with run.start(service, job) as generation:
        results = await run.collect(service, generation)
    return {
        "generated_texts": [result.text for result in results],
        "model_name": service.settings.served_name,
        "device": service.loaded.facts.device,
        **job.notes(),
    }
