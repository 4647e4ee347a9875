"""Prompts as tokens, within the limits."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from tandem_serve.engine.text import TemplateError, TextCodec
from tandem_serve.http.errors import ApiError, invalid, too_long
from tandem_serve.http.schema import ChatMessage
from tandem_serve.service import Service

_INLINE_CHARS = 20_000
"""Longer texts are tokenized in a thread, so that they do not hold up the event loop."""


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A prompt that may run. `truncated_from` is its length before tokens were cut from its start."""

    tokens: tuple[int, ...]
    truncated_from: int | None = None


async def from_completion(service: Service, prompt: str | list[Any]) -> list[Prompt]:
    """The prompts of a completion request: a text, texts, token ids or lists of them."""
    codec = service.ready.codec
    items: list[Any] = [prompt] if isinstance(prompt, str) or (prompt and isinstance(prompt[0], int)) else list(prompt)
    if not items:
        raise invalid("prompt: it is empty", param="prompt")
    tokens = [await _encode(codec, item) if isinstance(item, str) else _checked(codec, item) for item in items]
    return [limit(service, one, param="prompt") for one in tokens]


async def from_text(service: Service, text: str) -> Prompt:
    """One text."""
    return limit(service, await _encode(service.ready.codec, text), param="prompt")


async def from_chat(service: Service, messages: list[ChatMessage], template: dict[str, Any] | None) -> Prompt:
    """A conversation through the model's chat template. Raises a 400 when that does not work."""
    return limit(service, await chat_tokens(service.ready.codec, messages, template), param="messages")


async def chat_tokens(
    codec: TextCodec, messages: list[ChatMessage], template: dict[str, Any] | None
) -> tuple[int, ...]:
    """Tokens of a conversation, not limited."""
    flat = [message.flattened(f"messages[{index}]") for index, message in enumerate(messages)]
    try:
        return await asyncio.to_thread(codec.encode_chat, flat, **(template or {}))
    except TemplateError as error:
        raise invalid(f"messages: {error}", param="messages", code="chat_template") from error
    except TypeError as error:
        raise invalid(f"chat_template_kwargs: {error}", param="chat_template_kwargs") from error


def limit(service: Service, tokens: tuple[int, ...], *, param: str) -> Prompt:
    """Cuts or refuses (413) a prompt that is too long for the limits, the context or the KV memory."""
    config, facts = service.settings.config, service.ready.facts
    most = min(config.max_prompt_tokens, facts.max_model_len - 1, facts.kv_capacity_tokens)
    if len(tokens) <= most:
        return Prompt(tokens=tokens)
    if config.on_overlong == "truncate":
        return Prompt(tokens=tokens[-most:], truncated_from=len(tokens))
    raise too_long(f"{param}: {len(tokens)} tokens, and this server takes at most {most}", param=param)


async def _encode(codec: TextCodec, text: str) -> tuple[int, ...]:
    if len(text) > _INLINE_CHARS:
        tokens = await asyncio.to_thread(codec.encode, text)
    else:
        tokens = codec.encode(text)
    if not tokens and codec.bos_id is not None:
        return (codec.bos_id,)
    if not tokens:
        raise invalid("prompt: it has no tokens", param="prompt")
    return tokens


def _checked(codec: TextCodec, ids: list[int]) -> tuple[int, ...]:
    if not ids:
        raise invalid("prompt: a list of tokens is empty", param="prompt")
    for token in ids:
        if not 0 <= token < codec.vocab_size:
            raise invalid(f"prompt: {token} is not a token (0 to {codec.vocab_size - 1})", param="prompt")
    return tuple(ids)


def check_model(service: Service, name: str | None) -> None:
    """Raises a 404 when a request names another model than the one served."""
    if name is not None and name != service.settings.served_name:
        message = f"The model `{name}` does not exist; this server has `{service.settings.served_name}`."
        raise ApiError(404, message, code="model_not_found", param="model")
