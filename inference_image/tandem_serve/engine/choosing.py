"""Which token each sequence gets next, out of the model's logits."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch

from tandem_serve.engine import sampling
from tandem_serve.engine.sequence import Sequence
from tandem_serve.engine.types import FinishReason, TokenLogprob

log = logging.getLogger(__name__)
_RULED_OUT = (
    "no token is left to choose: stop_token_ids with min_tokens, logit_bias or the penalties rule out all of them"
)


@dataclass(frozen=True, slots=True)
class Choice:
    """A token, with its log probability where that is wanted."""

    token: int
    logprobs: tuple[TokenLogprob, ...]


@dataclass(frozen=True, slots=True)
class NoChoice:
    """Why a sequence ends without one."""

    reason: FinishReason
    message: str


@torch.inference_mode()
def choose(logits: torch.Tensor, sequences: list[Sequence]) -> list[Choice | NoChoice]:
    """The next token of each sequence, with its log probability where that is wanted."""
    if not sequences:
        return []
    params = [sequence.request.sampling for sequence in sequences]
    own, failed = _change(logits, sequences)
    tokens = sampling.sample(logits, params, [sequence.generator for sequence in sequences])
    asked = [(row, param.logprobs) for row, param in enumerate(params) if param.logprobs is not None]
    found = sampling.token_logprobs(
        [own.get(row, logits[row]) for row, _ in asked],
        tokens=[tokens[row] for row, _ in asked],
        alternatives=[count for _, count in asked],
    )
    of_row = {row: (logprob,) for (row, _), logprob in zip(asked, found, strict=True)}
    return [failed.get(row) or Choice(token, of_row.get(row, ())) for row, token in enumerate(tokens)]


def _change(logits: torch.Tensor, sequences: list[Sequence]) -> tuple[dict[int, torch.Tensor], dict[int, NoChoice]]:
    """Turns the model's logits, in place, into those that tokens are chosen by.

    Returns the model's own rows where they are still wanted (reported log probabilities stay those of the model),
    and the rows without a choice, whose logits then mean nothing: what one request asks for never ends others.
    """
    own: dict[int, torch.Tensor] = {}
    failed: dict[int, NoChoice] = {}
    changed = []
    for row, sequence in enumerate(sequences):
        param, grammar = sequence.request.sampling, sequence.grammar
        too_early = sequence.generated < param.min_tokens
        if not too_early and not param.changes_logits and grammar is None:
            continue
        if param.logprobs is not None:
            own[row] = logits[row].clone()
        changed.append(row)
        try:
            _change_row(logits[row], sequence, ends=sequence.ends if too_early else [])
        except Exception as error:
            log.exception("a sequence's logits failed; it ends", extra={"request_id": sequence.request.request_id})
            failed[row] = NoChoice(FinishReason.ERROR, f"the engine failed: {type(error).__name__}")
    for row in sampling.impossible(logits, changed):
        failed.setdefault(row, NoChoice(FinishReason.IMPOSSIBLE, _RULED_OUT))
    for row in failed:
        logits[row] = 0.0
    return own, failed


def _change_row(logits: torch.Tensor, sequence: Sequence, *, ends: list[int]) -> None:
    """Turns one row of the model's logits, in place, into those that its token is chosen by; `ends` are ruled out."""
    param, grammar = sequence.request.sampling, sequence.grammar
    if param.changes_logits:
        prompt, generated = sequence.tokens[: sequence.prompt_len], sequence.tokens[sequence.prompt_len :]
        sampling.change_logits(logits, param, sequence.biases, prompt=prompt, generated=generated)
    if grammar is not None:
        sampling.forbid_where(logits, grammar.forbidden(ends))
    else:
        sampling.forbid(logits, ends)
