"""Log probabilities in the two forms OpenAI has: lists by position (completions), objects by token (chat)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tandem_serve.engine.text import TextCodec
from tandem_serve.engine.types import TokenLogprob


def completion_logprobs(
    codec: TextCodec,
    tokens: Sequence[TokenLogprob | None],
    *,
    ids: Sequence[int],
    offset: int,
    alternatives: int,
    skip_special: bool,
) -> dict[str, Any]:
    """The `logprobs` of a completion's choice. `ids` are the tokens, one per entry; None has no probability.

    `offset` is where in the text the first token begins; `skip_special`: special tokens are not in it.
    """
    texts = [codec.token_text(token) for token in ids]
    offsets, position = [], offset
    for token, text in zip(ids, texts, strict=True):
        offsets.append(position)
        position += 0 if skip_special and codec.is_special(token) else len(text)
    return {
        "tokens": texts,
        "token_logprobs": [None if entry is None else entry.logprob for entry in tokens],
        "top_logprobs": [_top(codec, entry) for entry in tokens] if alternatives else None,
        "text_offset": offsets,
    }


def _top(codec: TextCodec, entry: TokenLogprob | None) -> dict[str, float] | None:
    if entry is None:
        return None
    best: dict[str, float] = {}
    for token, logprob in (*entry.top, (entry.token_id, entry.logprob)):
        best.setdefault(codec.token_text(token), logprob)
    return best


def chat_logprobs(codec: TextCodec, tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
    """The `logprobs` of a chat choice."""
    content = []
    for entry in tokens:
        item = _chat_token(codec, entry.token_id, entry.logprob)
        item["top_logprobs"] = [_chat_token(codec, token, logprob) for token, logprob in entry.top]
        content.append(item)
    return {"content": content}


def _chat_token(codec: TextCodec, token: int, logprob: float) -> dict[str, Any]:
    text = codec.token_text(token)
    return {"token": text, "logprob": logprob, "bytes": list(text.encode())}
