"""Values that cross between the HTTP side and the engine thread. No torch here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from tandem_serve.engine.grammar import Grammar


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """How one sequence is continued. `temperature` 0 is greedy; the other defaults of these change nothing."""

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    """Tokens less likely than this share of the most likely one are out."""
    presence_penalty: float = 0.0
    """Taken off the logit of every token generated before; `frequency_penalty` once for each time."""
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    """Divides positive and multiplies negative logits of tokens in the prompt or generated before."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    seed: int | None = None
    min_tokens: int = 0
    ignore_eos: bool = False
    stop: tuple[str, ...] = ()
    stop_token_ids: frozenset[int] = frozenset()
    logprobs: int | None = None
    """Number of alternatives reported per new token (0: only the chosen one); None: no logprobs."""
    prompt_logprobs: int | None = None
    """The same for prompt tokens."""
    grammar: Grammar | None = None
    """What the text must follow."""
    skip_special_tokens: bool = True
    """Whether special tokens are left out of the text."""

    @property
    def changes_logits(self) -> bool:
        """Whether anything is done to the logits before a token is chosen."""
        return bool(self.presence_penalty or self.frequency_penalty or self.repetition_penalty != 1 or self.logit_bias)


@dataclass(frozen=True, kw_only=True)
class RemoteKv:
    """Where a prefill worker keeps the KV of this prompt (fields of `kv_transfer_params`)."""

    host: str
    port: int
    kv_id: str
    token: str = field(repr=False)
    """What the prefill worker wants to see."""
    lease_seconds: float


@dataclass(frozen=True, kw_only=True)
class SequenceRequest:
    """One sequence to generate. `deadline` is a reading of the engine's clock, in seconds."""

    seq_id: int
    request_id: str
    prompt: tuple[int, ...]
    sampling: SamplingParams
    deadline: float | None = None
    keep_kv: str | None = None
    """Hand the prompt's KV over under this id (prefill role): it arrives in `Update.kept` and `Finish.kv`."""
    remote: RemoteKv | None = None


class FinishReason(StrEnum):
    """Why a sequence ended."""

    STOP = "stop"
    LENGTH = "length"
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"
    ERROR = "error"
    IMPOSSIBLE = "impossible"
    """What the request rules out leaves no token to choose."""


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token with its log probability (natural log, before temperature) and the best alternatives."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


class PromptLogprobs:
    """Log probabilities of a prompt's tokens, as arrays: as objects they would take fifty times the memory.

    Iterating gives one entry per token; the first token has none.
    """

    def __init__(self) -> None:
        self._parts: list[tuple[NDArray[Any], ...]] = []

    def add(
        self, tokens: list[int], logprobs: NDArray[np.float32], top: NDArray[np.int64], scores: NDArray[np.float32]
    ) -> None:
        """The next tokens [n], with their alternatives and those' log probabilities [n, alternatives]."""
        self._parts.append((np.array(tokens), logprobs, top, scores))

    def __len__(self) -> int:
        return 1 + sum(len(tokens) for tokens, *_ in self._parts)

    def __iter__(self) -> Iterator[TokenLogprob | None]:
        yield None
        for part in self._parts:
            for token, logprob, top, scores in zip(*part, strict=True):
                best = tuple(zip(top.tolist(), scores.tolist(), strict=True))
                yield TokenLogprob(int(token), float(logprob), best)


@dataclass(frozen=True, slots=True)
class Kept:
    """Where the KV of a sequence with `keep_kv` is, and of how many tokens it is there by now."""

    kv: Any
    tokens: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Finish:
    """The end of a sequence. `kv` is its memory with `keep_kv`, whatever the reason: the receiver releases it."""

    reason: FinishReason
    message: str | None = None
    kv: Any = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Update:
    """News of one sequence after one step. `text` may lag behind `token_ids` (incomplete characters, stop strings)."""

    seq_id: int
    text: str = ""
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    prompt_logprobs: PromptLogprobs | None = None
    started: bool = False
    """The sequence left the queue: its memory is reserved."""
    pull_from: int | None = None
    """With a remote KV, when started: the first token whose KV is missing. None: all full blocks are here."""
    kept: Kept | None = None
    """With `keep_kv`, after each step that computed some of it, but the last."""
    finish: Finish | None = None


@dataclass(kw_only=True)
class EngineStats:
    """Figures the engine thread keeps for the metrics; plain numbers, read without a lock."""

    running: int = 0
    waiting: int = 0
    kv_used_tokens: int = 0
    kv_capacity_tokens: int = 0
    kv_block_tokens: int = 1
    generated_tokens: int = 0
    prompt_tokens_computed: int = 0
    prompt_tokens_transferred: int = 0
    prompt_tokens_reused: int = 0
    steps: int = 0
    batch_sizes: dict[int, int] = field(default_factory=dict)
    """Steps by their number of sequences."""
    finished: dict[str, int] = field(default_factory=dict)
