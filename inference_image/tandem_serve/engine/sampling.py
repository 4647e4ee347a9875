"""From logits to tokens, each row by its own parameters; a row's result does not depend on the other rows."""

from __future__ import annotations

import math
import secrets
from collections import Counter
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from tandem_serve.engine.device import to_device
from tandem_serve.engine.types import SamplingParams, TokenLogprob

# Logits divided by less leave the range of float32; the most likely token has all the probability long before.
GREEDY_BELOW = 1e-5
_LIKELY = 256  # tokens that mostly hold all of top-p: finding them is much cheaper than sorting the vocabulary


def make_generator(seed: int | None, device: torch.device) -> Generator:
    """The random source of one sequence; `seed` None takes a fresh one."""
    generator = Generator(device=device)
    generator.manual_seed(secrets.randbits(63) if seed is None else seed & (2**64 - 1))
    return generator


def sample(logits: Tensor, params: list[SamplingParams], generators: list[Generator | None]) -> list[int]:
    """One token per row of `logits` [rows, vocabulary]. Rows with a temperature near 0 take the most likely token."""
    drawn = [
        (row, param, generator)
        for row, (param, generator) in enumerate(zip(params, generators, strict=True))
        if generator is not None and param.temperature >= GREEDY_BELOW
    ]
    if logits.device.type != "cpu":
        return sample_together(logits, drawn).tolist()
    tokens: list[int] = logits.float().numpy().argmax(axis=-1).tolist()  # torch's own takes 5 to 20 times as long
    for row, param, generator in drawn:
        tokens[row] = _draw(logits[row], param, generator)
    return tokens


def _draw(logits: Tensor, params: SamplingParams, generator: Generator) -> int:
    """Temperature, then top-k, then the smallest set of tokens whose probability reaches top-p, then min-p."""
    scaled = logits.float() / params.temperature
    indices: Tensor | None = None
    if 0 < params.top_k < scaled.shape[-1]:
        scaled, indices = scaled.topk(params.top_k)
    probabilities = scaled.softmax(dim=-1)
    best = probabilities.max()
    if params.top_p < 1:
        probabilities, order = _most_likely(probabilities, params.top_p)
        indices = order if indices is None else indices[order]
    if params.min_p > 0:
        probabilities = probabilities.masked_fill(probabilities < params.min_p * best, 0.0)
    choice = torch.multinomial(probabilities, 1, generator=generator)
    return int(choice) if indices is None else int(indices[choice])


def _most_likely(probabilities: Tensor, top_p: float) -> tuple[Tensor, Tensor]:
    """The most likely tokens that together reach `top_p`, at least one, and which ones they are."""
    values, indices = probabilities.topk(min(_LIKELY, len(probabilities)))
    if len(values) < len(probabilities) and values.sum() < top_p:
        values, indices = probabilities.sort(descending=True)
    beyond = values.cumsum(dim=-1) - values >= top_p
    beyond[0] = False
    return values.masked_fill(beyond, 0.0), indices


def sample_together(logits: Tensor, drawn: list[tuple[int, SamplingParams, Generator]]) -> Tensor:
    """One token per row, the most likely one but for the rows that are `drawn`: all of it stays on the device."""
    tokens = logits.argmax(dim=-1)
    if not drawn:
        return tokens
    device = logits.device
    rows = to_device(np.array([row for row, _, _ in drawn], dtype=np.int64), device)
    most = logits.shape[-1]
    limits = np.array([(p.temperature, p.top_p, p.min_p, min(p.top_k, most)) for _, p, _ in drawn], dtype=np.float64)
    temperature, top_p, min_p, top_k = to_device(limits, device).float().T.unsqueeze(-1)
    probabilities = (logits[rows].float() / temperature).softmax(dim=-1)
    noise = torch.empty_like(probabilities)
    for line, (_, _, generator) in zip(noise, drawn, strict=True):
        line.exponential_(generator=generator)
    if any(p.top_p < 1 or p.top_k > 0 or p.min_p > 0 for _, p, _ in drawn):
        best_first, order = probabilities.sort(dim=-1, descending=True)
        within = _within(best_first, top_p=top_p, min_p=min_p, top_k=top_k)
        probabilities = torch.empty_like(probabilities).scatter_(-1, order, within)
    # Probability over noise is largest for each token with its probability, and never for one that has none.
    tokens[rows] = (probabilities / noise).argmax(dim=-1)
    return tokens


def _within(probabilities: Tensor, *, top_p: Tensor, min_p: Tensor, top_k: Tensor) -> Tensor:
    """Sorted probabilities, 0 for those that the limits of the rows leave out; the most likely one stays."""
    ranks = torch.arange(probabilities.shape[-1], device=probabilities.device)
    left = probabilities.masked_fill((top_k > 0) & (ranks >= top_k), 0.0)
    before = (left.cumsum(dim=-1) - left) / left.sum(dim=-1, keepdim=True)
    beyond = (top_p < 1) & (ranks > 0) & (before >= top_p)
    return left.masked_fill(beyond | (left < min_p * left[:, :1]), 0.0)


@dataclass(frozen=True, slots=True)
class Biases:
    """`logit_bias` as tensors, made once per sequence."""

    tokens: Tensor
    values: Tensor

    @classmethod
    def of(cls, params: SamplingParams, device: torch.device) -> Biases | None:
        """None when there are none."""
        if not params.logit_bias:
            return None
        tokens, values = zip(*params.logit_bias, strict=True)
        return cls(torch.tensor(tokens, device=device), torch.tensor(values, device=device))


def change_logits(
    logits: Tensor, params: SamplingParams, biases: Biases | None, *, prompt: list[int], generated: list[int]
) -> None:
    """Penalties for tokens that came before, then the biases, in one row of logits, in place."""
    if params.repetition_penalty != 1:
        seen = list({*prompt, *generated})
        of_seen = logits[seen]
        factor = params.repetition_penalty
        logits[seen] = torch.where(of_seen < 0, of_seen * factor, of_seen / factor)
    if (params.presence_penalty or params.frequency_penalty) and generated:
        counts = Counter(generated)
        times = torch.tensor(list(counts.values()), dtype=logits.dtype, device=logits.device)
        logits[list(counts)] -= params.presence_penalty + params.frequency_penalty * times
    if biases is not None:
        logits.index_add_(0, biases.tokens, biases.values.to(logits.dtype))


def forbid(logits: Tensor, tokens: list[int]) -> None:
    """Makes `tokens` impossible in one row of logits, in place."""
    logits[tokens] = float("-inf")


def forbid_where(logits: Tensor, forbidden: NDArray[np.bool_]) -> None:
    """The same for a whole row of choices, one per token."""
    logits.masked_fill_(torch.from_numpy(forbidden).to(logits.device), float("-inf"))


def impossible(logits: Tensor, rows: list[int]) -> list[int]:
    """Those of the rows in which no token can be chosen: all are ruled out, or some value is none."""
    if not rows:
        return []
    best = torch.stack([logits[row].amax() for row in rows]).tolist()
    return [row for row, value in zip(rows, best, strict=True) if not math.isfinite(value)]


def token_logprobs(rows: list[Tensor], *, tokens: list[int], alternatives: list[int]) -> list[TokenLogprob]:
    """Log probability of each token in its row [vocabulary], with so many of the most likely tokens."""
    if not rows:
        return []
    logprobs = torch.stack(rows).float().log_softmax(dim=-1)
    of_tokens = to_device(np.array(tokens, dtype=np.int64), logprobs.device)
    chosen = logprobs.gather(-1, of_tokens[:, None]).squeeze(-1).tolist()
    values, indices = logprobs.topk(min(max(alternatives), logprobs.shape[-1]), dim=-1)
    return [
        TokenLogprob(token, logprob, tuple(zip(ids[:count], scores[:count], strict=True)))
        for token, logprob, ids, scores, count in zip(
            tokens, chosen, indices.tolist(), values.tolist(), alternatives, strict=True
        )
    ]
