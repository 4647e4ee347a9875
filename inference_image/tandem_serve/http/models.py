"""`GET /v1/models`, `/tokenize`, `/detokenize`, `/tokenizer_info`; and OpenAI's routes that are not here."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import APIRouter

from tandem_serve.http import errors, prompts
from tandem_serve.http.schema import DetokenizeRequest, TokenizeRequest
from tandem_serve.service import Service

_TEXT_ONLY = "the model makes text from text"
_NOT_HERE = {
    "/v1/embeddings": "the model generates text and has no embeddings to give",
    "/v1/responses": "conversations are not kept here",
    "/v1/moderations": _TEXT_ONLY,
    "/v1/images/generations": _TEXT_ONLY,
    "/v1/audio/speech": _TEXT_ONLY,
    "/v1/audio/transcriptions": _TEXT_ONLY,
    "/v1/audio/translations": _TEXT_ONLY,
}


def router(service: Service) -> APIRouter:
    """The routes."""
    routes = APIRouter()

    def card() -> dict[str, Any]:
        card = {
            "id": service.settings.served_name,
            "object": "model",
            "created": service.created,
            "owned_by": "tandem",
        }
        return card | {"max_model_len": service.loaded.facts.max_model_len} if service.model_loaded else card

    @routes.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [card()]}

    @routes.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        prompts.check_model(service, name)
        return card()

    @routes.post("/tokenize")
    async def tokenize(body: TokenizeRequest) -> dict[str, Any]:
        prompts.check_model(service, body.model)
        body.refuse_unsupported()
        codec = service.loaded.codec
        if (body.prompt is None) == (body.messages is None):
            raise errors.invalid("give either prompt or messages", param="prompt")
        if body.messages is not None:
            tools = [tool.model_dump(exclude_unset=True) for tool in body.tools or ()] or None
            tokens = await prompts.chat_tokens(service, body.messages, body.chat_template_kwargs, tools=tools)
        else:
            tokens = await prompts.encode(service, body.prompt or "", special=body.add_special_tokens)
        answer: dict[str, Any] = {
            "count": len(tokens),
            "max_model_len": service.loaded.facts.max_model_len,
            "tokens": list(tokens),
        }
        return answer | ({"token_strs": codec.token_strings(tokens)} if body.return_token_strs else {})

    @routes.post("/detokenize")
    async def detokenize(body: DetokenizeRequest) -> dict[str, Any]:
        prompts.check_model(service, body.model)
        codec = service.loaded.codec
        most = max(prompts.INLINE_CHARS, service.loaded.facts.max_model_len)
        if len(body.tokens) > most:
            raise errors.too_long(f"tokens: {len(body.tokens)}, and this server reads at most {most}", param="tokens")
        prompts.check_tokens(service, body.tokens, param="tokens")
        return {"prompt": codec.decode(body.tokens)}

    @routes.get("/tokenizer_info")
    async def tokenizer_info() -> dict[str, Any]:
        loaded = service.loaded
        return {**loaded.codec.info, "model_max_length": loaded.facts.max_model_len}

    for path, what in _NOT_HERE.items():
        routes.add_api_route(path, _refusal(path, what), methods=["POST"])
    return routes


def _refusal(path: str, what: str) -> Callable[[], Awaitable[None]]:
    async def refuse() -> None:
        message = f"{path} is not served: {what}. This server has /v1/chat/completions and /v1/completions."
        raise errors.ApiError(404, message, code="unsupported_endpoint")

    return refuse
