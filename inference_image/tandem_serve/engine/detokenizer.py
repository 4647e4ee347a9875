"""Tokens to text, one token at a time, in constant time per token.

A token's text can depend on its neighbours (spaces of sentencepiece, characters split over byte tokens), so a short
window is decoded with and without the new token and the difference is the new text. The window starts with the end
of the prompt: the text continues the prompt just as it would if both were decoded together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

Decode = Callable[[list[int]], str]
_PROMPT_WINDOW = 6
_INCOMPLETE = "\ufffd"
_MAX_PENDING = 16  # tokens: more than any character takes, so a text that really is U+FFFD comes out


class IncrementalDetokenizer:
    """The text of one sequence as it grows."""

    __slots__ = ("_decode", "_pending", "_prefix", "_prefix_text")

    def __init__(self, decode: Decode, prompt: Sequence[int]) -> None:
        self._decode = decode
        self._prefix = list(prompt[-_PROMPT_WINDOW:])
        self._prefix_text = decode(self._prefix) if self._prefix else ""
        self._pending: list[int] = []

    def push(self, token: int) -> str:
        """The text that became certain with this token; empty while a character is incomplete."""
        self._pending.append(token)
        text = self._decode(self._prefix + self._pending)
        if text.endswith(_INCOMPLETE) and len(self._pending) < _MAX_PENDING:
            return ""
        return self._release(text)

    def flush(self) -> str:
        """What is left at the end, incomplete characters as U+FFFD."""
        if not self._pending:
            return ""
        return self._release(self._decode(self._prefix + self._pending))

    def _release(self, text: str) -> str:
        new = text[len(self._prefix_text) :]
        if new or len(self._prefix) > _MAX_PENDING:
            self._prefix, self._pending = self._pending, []
        else:  # a special token without text must not become the start of the window: words after it keep their space
            self._prefix, self._pending = self._prefix + self._pending, []
        self._prefix_text = self._decode(self._prefix)
        return new
