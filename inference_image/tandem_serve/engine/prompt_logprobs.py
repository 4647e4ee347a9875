"""Log probabilities of prompt tokens: the row of position p says how likely the token at p + 1 was."""

from __future__ import annotations

from torch import Tensor

from tandem_serve.engine.scheduler import Chunk


def rows(chunk: Chunk, begin: int) -> list[int]:
    """Rows of the step, where the chunk starts at row `begin`, whose logits speak of a prompt token."""
    if chunk.sequence.request.sampling.prompt_logprobs is None:
        return []
    last = min(chunk.start + chunk.count, chunk.sequence.prompt_len - 1)
    return list(range(begin, begin + max(0, last - chunk.start)))


def collect(chunk: Chunk, logits: Tensor) -> None:
    """Adds what `logits` [len(rows), vocabulary] say to the sequence."""
    sequence = chunk.sequence
    alternatives = sequence.request.sampling.prompt_logprobs
    if alternatives is None or chunk.start >= sequence.prompt_len or not len(logits):
        return
    logprobs = logits.float().log_softmax(dim=-1)
    targets = sequence.tokens[chunk.start + 1 : chunk.start + 1 + len(logits)]
    values, indices = logprobs.topk(min(alternatives, logprobs.shape[-1]), dim=-1)
    chosen = logprobs[range(len(targets)), targets]
    sequence.prompt_logprobs.add(targets, *(tensor.cpu().numpy() for tensor in (chosen, indices, values)))
