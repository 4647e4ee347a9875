"""The beginning of a prompt, as the key by which `prefixAffinity` brings like to like. Pure."""

from __future__ import annotations

from typing import Any

from tandem.gateway.protocol import Body, encode

# Long enough to tell system prompts apart, short enough that the turns of one chat stay together.
PREFIX_BYTES = 1024


def prefix_of(body: Body) -> bytes:
    """The first bytes of the prompt or of the messages; empty when there is neither."""
    if (messages := body.get("messages")) is not None:
        return _beginning_of_messages(messages)
    prompt = body.get("prompt")
    if isinstance(prompt, list):
        return encode(prompt[: PREFIX_BYTES // 4])[:PREFIX_BYTES]
    return prompt[:PREFIX_BYTES].encode(errors="replace")[:PREFIX_BYTES] if isinstance(prompt, str) else b""


def _beginning_of_messages(messages: Any) -> bytes:
    collected = b""
    for message in messages if isinstance(messages, list) else []:
        collected += encode(message)
        if len(collected) >= PREFIX_BYTES:
            break
    return collected[:PREFIX_BYTES]
