"""Prompts as tokens, within the limits."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jinja2

from tandem_serve.engine.text import RESERVED, TemplateError, TextCodec, TextTooLongError
from tandem_serve.http.errors import ApiError, invalid, too_long
from tandem_serve.http.schema import MAX_CHOICES, ChatMessage
from tandem_serve.service import Service

MAX_CHARS = 1_000_000
CHARS_PER_TOKEN = 64
"""Far more than any text has in the mean: a longer one cannot fit into the context."""
INLINE_CHARS = 20_000
"""Longer texts are tokenized in a thread, so that they do not hold up the event loop."""
MANY_TOOLS = 50
SCALAR_CHARS = 8
"""What a number, or the punctuation of a field, is taken for where a template may write it down."""
MAX_MESSAGES = 10_000


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
    if len(items) > MAX_CHOICES:  # before the work of reading them
        raise invalid(f"prompt: {len(items)} prompts, and one request may have {MAX_CHOICES}", param="prompt")
    return [
        limit(service, await _encode(service, item) if isinstance(item, str) else _checked(codec, item), param="prompt")
        for item in items
    ]


async def from_text(service: Service, text: str) -> Prompt:
    """One text."""
    return limit(service, await _encode(service, text), param="prompt")


async def from_chat(
    service: Service,
    messages: list[ChatMessage],
    template: dict[str, Any] | None,
    *,
    tools: list[dict[str, Any]] | None,
) -> Prompt:
    """A conversation through the model's chat template. Raises a 400 when that does not work."""
    return limit(service, await chat_tokens(service, messages, template, tools=tools), param="messages")


async def chat_tokens(
    service: Service,
    messages: list[ChatMessage],
    template: dict[str, Any] | None,
    *,
    tools: list[dict[str, Any]] | None = None,
) -> tuple[int, ...]:
    """Tokens of a conversation, not limited but for its messages, of which each has tokens, and its characters (413).

    A template may write down whatever it is given: all fields count, and then what it has made of them.
    """
    codec = service.loaded.codec
    most = max(MAX_MESSAGES, service.loaded.facts.max_model_len)
    if len(messages) > most:
        raise too_long(f"messages: {len(messages)}, and this server reads at most {most}", param="messages")
    flat = [message.flattened(f"messages[{index}]") for index, message in enumerate(messages)]
    for name in template or {}:
        if name in RESERVED:
            raise invalid(f"chat_template_kwargs: {name} is not for requests", param=f"chat_template_kwargs.{name}")
    chars = chars_of([flat, template, tools])
    check_chars(service, chars, param="messages")
    work = partial(codec.encode_chat, flat, template or {}, tools=tools, most_chars=most_chars(service))
    is_long = chars > INLINE_CHARS or len(tools or ()) > MANY_TOOLS
    try:
        return await (service.read_long(work) if is_long else asyncio.to_thread(work))
    except TextTooLongError as error:
        raise _too_many_chars(service, error.chars, param="messages") from None
    except TemplateError as error:
        if (fault := syntax_error(error)) is not None:
            reason = f"the model's own chat template is broken ({fault}), so it takes no messages; use /v1/completions"
            raise ApiError(400, reason, code="broken_chat_template") from error
        raise invalid(f"messages: {error}", param="messages", code="chat_template") from error


def template_fault(codec: TextCodec) -> str | None:
    """Why the model's chat template takes no messages at all, if so; it is compiled for that."""
    if codec.has_chat_template:
        try:
            codec.encode_chat([{"role": "user", "content": "a"}], {}, most_chars=MAX_CHARS)
        except TemplateError as error:
            return syntax_error(error)
        except TextTooLongError:
            return None
    return None


def syntax_error(error: TemplateError) -> str | None:
    """What cannot be read in the template itself; None where it is the messages that it refuses."""
    cause = error.__cause__
    return f"line {cause.lineno}: {cause.message}" if isinstance(cause, jinja2.TemplateSyntaxError) else None


def chars_of(value: Any) -> int:
    """About how many characters a JSON value takes, written down; without recursion."""
    chars, waiting = 0, [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, str):
            chars += len(one)
        elif isinstance(one, dict):
            chars += sum(len(key) + SCALAR_CHARS for key in one)
            waiting += one.values()
        elif isinstance(one, list):
            waiting += one
        elif one is not None:
            chars += SCALAR_CHARS
    return chars


def limit(service: Service, tokens: tuple[int, ...], *, param: str) -> Prompt:
    """Cuts or refuses (413) a prompt that is too long for the limits, the context or the KV memory.

    Raises a 400 for tokens that only the tokenizer knows: one would fail the step of all sequences.
    """
    config, facts = service.settings.config, service.ready.facts
    if max(tokens, default=0) >= facts.vocab_size:
        known = f"the model has tokens 0 to {facts.vocab_size - 1}"
        raise invalid(f"{param}: the tokenizer makes token {max(tokens)} of it, and {known}", param=param)
    most = min(config.max_prompt_tokens, facts.max_model_len - 1, facts.kv_capacity_tokens)
    if len(tokens) <= most:
        return Prompt(tokens=tokens)
    if config.on_overlong == "truncate":
        return Prompt(tokens=tokens[-most:], truncated_from=len(tokens))
    raise too_long(f"{param}: {len(tokens)} tokens, and this server takes at most {most}", param=param)


async def encode(service: Service, text: str, *, special: bool = True) -> tuple[int, ...]:
    """Tokens of a text; may be none. Raises a 413 for what need not be looked at to know that it is too long."""
    check_chars(service, len(text), param="prompt")
    work = partial(service.loaded.codec.encode, text, special=special)
    return await service.read_long(work) if len(text) > INLINE_CHARS else work()


def check_chars(service: Service, chars: int, *, param: str) -> None:
    """Raises a 413: tokens take some hundred times the memory of the text that they are made from."""
    if chars > most_chars(service):
        raise _too_many_chars(service, chars, param=param)


def most_chars(service: Service) -> int:
    """The longest text that is tokenized."""
    return max(MAX_CHARS, CHARS_PER_TOKEN * service.loaded.facts.max_model_len)


def _too_many_chars(service: Service, chars: int, *, param: str) -> ApiError:
    text = f"{param}: {chars} characters, and this server reads at most {most_chars(service)}"
    return too_long(text, param=param)


async def _encode(service: Service, text: str) -> tuple[int, ...]:
    codec = service.ready.codec
    tokens = await encode(service, text)
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


def check_tokens(service: Service, ids: Iterable[int | str], *, param: str) -> None:
    """Raises a 400 for a token that the model does not have. Keys of JSON objects are numbers as text."""
    vocab_size = service.ready.codec.vocab_size
    for token in ids:
        number = token if isinstance(token, int) else int(token) if token.isdecimal() and len(token) < 10 else -1
        if not 0 <= number < vocab_size:
            raise invalid(f"{param}: {token} is not a token (0 to {vocab_size - 1})", param=param)


def check_model(service: Service, name: str | None) -> None:
    """Raises a 404 when a request names another model than the one served."""
    if name is not None and name != service.settings.served_name:
        message = f"The model `{name}` does not exist; this server has `{service.settings.served_name}`."
        raise ApiError(404, message, code="model_not_found", param="model")
