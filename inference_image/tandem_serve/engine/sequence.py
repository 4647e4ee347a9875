"""One sequence in the engine: its tokens, how far its KV is computed, and where it stands."""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING, Any

from tandem_serve.engine.types import SequenceRequest, TokenLogprob

if TYPE_CHECKING:
    from tandem_serve.engine.kv_cache import SequenceKv


class Stage(Enum):
    """Where a sequence stands."""

    WAITING = auto()
    PULLING = auto()  # memory reserved; its KV is on the way from a prefill worker
    RUNNING = auto()
    DONE = auto()


class Sequence:
    """Mutable; only the engine thread touches it.

    `tokens` are prompt and generated tokens, `computed` how many of them have their KV in memory. A sequence whose
    tokens are all but computed gets a new one with the next step: prefill and decode are the same thing.
    """

    __slots__ = ("computed", "decoder", "generator", "kv", "prompt_logprobs", "request", "stage", "tokens")

    def __init__(self, request: SequenceRequest, *, decoder: Any = None) -> None:
        self.request = request
        self.tokens = list(request.prompt)
        self.computed = 0
        self.stage = Stage.WAITING
        self.kv: SequenceKv | None = None
        self.decoder = decoder
        self.generator: Any = None
        self.prompt_logprobs: list[TokenLogprob | None] = []

    @property
    def seq_id(self) -> int:
        """The number by which the HTTP side knows it."""
        return self.request.seq_id

    @property
    def prompt_len(self) -> int:
        """Tokens of the prompt."""
        return len(self.request.prompt)

    @property
    def generated(self) -> int:
        """Tokens generated so far."""
        return len(self.tokens) - len(self.request.prompt)

    @property
    def remaining(self) -> int:
        """Tokens whose KV is not computed yet; 1 while decoding."""
        return len(self.tokens) - self.computed

    @property
    def reserve(self) -> int:
        """Tokens of KV memory it may need until its end. The last new token is never fed back."""
        return self.prompt_len + max(self.request.sampling.max_tokens - 1, 0)
