"""How many prompt tokens may go beside running sequences, so that their next token does not wait for a long prompt.

In a step in which some sequences get their next token, the prompts of others may take as much time as those tokens
do, or a moment that a reader does not notice. What a prompt token costs is learned from the steps.
"""

from __future__ import annotations

UNNOTICED_SECONDS = 0.075
_LEAST = 16
_WEIGHT = 0.2


class Pace:
    """Learns from the seconds of steps."""

    def __init__(self) -> None:
        self._decode = 0.0
        self._per_prompt_token = 0.0

    def room(self) -> int | None:
        """Prompt tokens beside decoding sequences; None: no limit is known to be needed."""
        if not self._per_prompt_token:
            return None
        return max(_LEAST, int(max(self._decode, UNNOTICED_SECONDS) / self._per_prompt_token))

    def learn(self, *, decoding: int, prompt_tokens: int, seconds: float) -> None:
        """Takes over what a step took. Steps of one kind teach the cost of that kind."""
        if decoding and not prompt_tokens:
            self._decode = _blend(self._decode, seconds)
        elif prompt_tokens >= _LEAST:
            rest = max(0.0, seconds - self._decode) if decoding else seconds
            self._per_prompt_token = _blend(self._per_prompt_token, rest / prompt_tokens)


def _blend(known: float, new: float) -> float:
    return known + _WEIGHT * (new - known) if known else new
