"""From logits to tokens, each row by its own parameters; a row's result does not depend on the other rows."""

from __future__ import annotations

import secrets

import torch
from torch import Generator, Tensor

from tandem_serve.engine.types import SamplingParams, TokenLogprob

# Logits divided by less leave the range of float32; the most likely token has all the probability long before.
GREEDY_BELOW = 1e-5


def make_generator(seed: int | None, device: torch.device) -> Generator:
    """The random source of one sequence; `seed` None takes a fresh one."""
    generator = Generator(device=device)
    generator.manual_seed(secrets.randbits(63) if seed is None else seed & (2**64 - 1))
    return generator


def sample(logits: Tensor, params: list[SamplingParams], generators: list[Generator | None]) -> list[int]:
    """One token per row of `logits` [rows, vocabulary]. Rows with a temperature near 0 take the most likely token."""
    greedy = logits.argmax(dim=-1).tolist()
    return [
        token if param.temperature < GREEDY_BELOW or generator is None else _draw(logits[row], param, generator)
        for row, (token, param, generator) in enumerate(zip(greedy, params, generators, strict=True))
    ]


def _draw(logits: Tensor, params: SamplingParams, generator: Generator) -> int:
    """Temperature, then top-k, then the smallest set of tokens whose probability reaches top-p."""
    scaled = logits.float() / params.temperature
    indices: Tensor | None = None
    if 0 < params.top_k < scaled.shape[-1]:
        scaled, indices = scaled.topk(params.top_k)
    elif params.top_p < 1:
        scaled, indices = scaled.sort(descending=True)
    probabilities = scaled.softmax(dim=-1)
    if params.top_p < 1:
        before = probabilities.cumsum(dim=-1) - probabilities
        beyond = before >= params.top_p
        beyond[0] = False
        probabilities = probabilities.masked_fill(beyond, 0.0)
    choice = torch.multinomial(probabilities, 1, generator=generator)
    return int(choice) if indices is None else int(indices[choice])


def forbid(logits: Tensor, tokens: list[int]) -> None:
    """Makes `tokens` impossible in one row of logits, in place."""
    logits[tokens] = float("-inf")


def token_logprob(logits: Tensor, token: int, alternatives: int) -> TokenLogprob:
    """Log probability of `token` in one row [vocabulary], with the `alternatives` most likely tokens."""
    logprobs = logits.float().log_softmax(dim=-1)
    top: tuple[tuple[int, float], ...] = ()
    if alternatives:
        values, indices = logprobs.topk(min(alternatives, logprobs.shape[-1]))
        top = tuple(zip(indices.tolist(), values.tolist(), strict=True))
    return TokenLogprob(token, float(logprobs[token]), top)
