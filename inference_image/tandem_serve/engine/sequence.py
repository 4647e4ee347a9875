"""One sequence in the engine: its tokens, how far its KV is computed, and where it stands."""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING, Any

from tandem_serve.engine import blocks
from tandem_serve.engine.blocks import BLOCK_TOKENS
from tandem_serve.engine.types import PromptLogprobs, SequenceRequest

if TYPE_CHECKING:
    from tandem_serve.engine.grammar import GrammarState
    from tandem_serve.engine.kv_cache import SequenceKv
    from tandem_serve.engine.sampling import Biases


class Stage(Enum):
    """Where a sequence stands."""

    WAITING = auto()
    PULLING = auto()  # memory reserved; its KV is on the way from a prefill worker
    RUNNING = auto()
    BESIDE = auto()  # a chunk of it is computed beside the steps
    DONE = auto()


class Sequence:
    """Mutable; only the engine thread touches it.

    `tokens` are prompt and generated tokens, `computed` how many of them have their KV in memory. A sequence whose
    tokens are all but computed gets a new one with the next step: prefill and decode are the same thing. `blocks` are
    its places in the memory, `kv` the views of them, made when they are needed.
    """

    __slots__ = (
        "_digests",
        "biases",
        "blocks",
        "computed",
        "decoder",
        "ends",
        "generator",
        "grammar",
        "kv",
        "prompt_logprobs",
        "registered",
        "request",
        "stage",
        "tokens",
    )

    def __init__(self, request: SequenceRequest, *, decoder: Any = None) -> None:
        self.request = request
        self.tokens = list(request.prompt)
        self.computed = 0
        self.stage = Stage.WAITING
        self.blocks: list[int] = []
        self.registered = 0
        """Leading blocks that others may find."""
        self.kv: SequenceKv | None = None
        self.decoder = decoder
        self.generator: Any = None
        self.biases: Biases | None = None
        self.ends: list[int] = []
        """Tokens that end it, but for those that it is told to pass over."""
        self.grammar: GrammarState | None = None
        self.prompt_logprobs = PromptLogprobs()
        self._digests: list[bytes] = []

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

    @property
    def reusable(self) -> int:
        """Leading blocks whose KV may come from others: all full ones before the last prompt token.

        Not when the prompt's log probabilities are wanted, which take its computation.
        """
        if self.request.sampling.prompt_logprobs is not None:
            return 0
        return (self.prompt_len - 1) // BLOCK_TOKENS

    @property
    def pull_from(self) -> int | None:
        """The first token to fetch from a prefill worker; None when less than a full block is missing."""
        missing = self.prompt_len - 1 - self.computed
        return self.computed if self.request.remote is not None and missing >= BLOCK_TOKENS else None

    def digest(self, index: int) -> bytes:
        """The name of the full block `index`."""
        while len(self._digests) <= index:
            number = len(self._digests)
            before = self._digests[-1] if number else b""
            own = self.tokens[number * BLOCK_TOKENS : (number + 1) * BLOCK_TOKENS]
            self._digests.append(blocks.digest(before, own))
        return self._digests[index]
