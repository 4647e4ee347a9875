"""From logits to tokens, each row by its own parameters; a row's result does not depend on the other rows."""

from __future__ import annotations

import secrets
from collections import Counter

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

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
    greedy = _most_likely_of_each(logits)
    return [
        token if param.temperature < GREEDY_BELOW or generator is None else _draw(logits[row], param, generator)
        for row, (token, param, generator) in enumerate(zip(greedy, params, generators, strict=True))
    ]


def _most_likely_of_each(logits: Tensor) -> list[int]:
    """On the CPU with numpy: 5 to 20 times as fast as torch's own, which takes 7 % of a step of a small model."""
    best: list[int]
    if logits.device.type == "cpu":
        best = logits.float().numpy().argmax(axis=-1).tolist()
    else:
        best = logits.argmax(dim=-1).tolist()
    return best


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


def change_logits(logits: Tensor, params: SamplingParams, *, prompt: list[int], generated: list[int]) -> None:
    """Penalties for tokens that came before, then the biases, in one row of logits, in place."""
    if params.repetition_penalty != 1:
        seen = sorted({*prompt, *generated})
        of_seen = logits[seen]
        factor = params.repetition_penalty
        logits[seen] = torch.where(of_seen < 0, of_seen * factor, of_seen / factor)
    if (params.presence_penalty or params.frequency_penalty) and generated:
        counts = Counter(generated)
        times = torch.tensor(list(counts.values()), dtype=logits.dtype, device=logits.device)
        logits[list(counts)] -= params.presence_penalty + params.frequency_penalty * times
    for token, bias in params.logit_bias:
        logits[token] += bias


def forbid(logits: Tensor, tokens: list[int]) -> None:
    """Makes `tokens` impossible in one row of logits, in place."""
    logits[tokens] = float("-inf")


def forbid_where(logits: Tensor, forbidden: NDArray[np.bool_]) -> None:
    """The same for a whole row of choices, one per token."""
    logits.masked_fill_(torch.from_numpy(forbidden).to(logits.device), float("-inf"))


def token_logprob(logits: Tensor, token: int, alternatives: int) -> TokenLogprob:
    """Log probability of `token` in one row [vocabulary], with the `alternatives` most likely tokens."""
    logprobs = logits.float().log_softmax(dim=-1)
    top: tuple[tuple[int, float], ...] = ()
    if alternatives:
        values, indices = logprobs.topk(min(alternatives, logprobs.shape[-1]))
        top = tuple(zip(indices.tolist(), values.tolist(), strict=True))
    return TokenLogprob(token, float(logprobs[token]), top)
