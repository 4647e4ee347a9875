"""Log probabilities of prompt tokens: the row of position p says how likely the token at p + 1 was."""

from __future__ import annotations

from torch import Tensor

from tandem_serve.engine.scheduler import Chunk
from tandem_serve.engine.types import TokenLogprob


def rows(chunk: Chunk, begin: int) -> list[int]:
    """Rows of the step, where the chunk starts at row `begin`, whose logits speak of a prompt token."""
    if chunk.sequence.request.sampling.prompt_logprobs is None:
        return []
    last = min(chunk.start + chunk.count, chunk.sequence.prompt_len - 1)
    return list(range(begin, begin + max(0, last - chunk.start)))


def collect(chunk: Chunk, logits: Tensor) -> None:
    """Adds what `logits` [len(rows), vocabulary] say to the sequence; the first prompt token has no probability."""
    sequence = chunk.sequence
    alternatives = sequence.request.sampling.prompt_logprobs
    if alternatives is None or chunk.start >= sequence.prompt_len:
        return
    if chunk.start == 0:
        sequence.prompt_logprobs.append(None)
    if not len(logits):
        return
    logprobs = logits.float().log_softmax(dim=-1)
    targets = sequence.tokens[chunk.start + 1 : chunk.start + 1 + len(logits)]
    chosen = logprobs[range(len(targets)), targets].tolist()
    top: list[tuple[tuple[int, float], ...]] = [()] * len(targets)
    if alternatives:
        values, indices = logprobs.topk(min(alternatives, logprobs.shape[-1]), dim=-1)
        top = [
            tuple(zip(ids, scores, strict=True)) for ids, scores in zip(indices.tolist(), values.tolist(), strict=True)
        ]
    sequence.prompt_logprobs += [
        TokenLogprob(token, logprob, best) for token, logprob, best in zip(targets, chosen, top, strict=True)
    ]
