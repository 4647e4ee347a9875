"""`GET /v1/models`, `POST /tokenize`, `POST /detokenize`."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from tandem_serve.http import errors, prompts
from tandem_serve.http.schema import DetokenizeRequest, TokenizeRequest
from tandem_serve.service import Service


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
        codec = service.loaded.codec
        if (body.prompt is None) == (body.messages is None):
            raise errors.invalid("give either prompt or messages", param="prompt")
        if body.messages is not None:
            tokens = await prompts.chat_tokens(service, body.messages, None)
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
        for token in body.tokens:
            if not 0 <= token < codec.vocab_size:
                raise errors.invalid(f"tokens: {token} is not a token", param="tokens")
        return {"prompt": codec.decode(body.tokens)}

    return routes
