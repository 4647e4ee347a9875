"""What the demo found out, in words; every figure is the deployment's own."""

from __future__ import annotations

from demo.run import Outcome


def report(outcome: Outcome) -> str:
    """Some lines about an answer and the hand-off behind it."""
    answer, moved = outcome.answer, outcome.hand_off
    recomputed = max(0, moved.decode_computed - 1)
    return "\n".join(
        (
            f"the passage, word for word: {_yes(outcome.word_for_word)}",
            f"{answer.answer_tokens} tokens at {answer.tokens_per_second:.0f} tokens/s, "
            f"the first after {answer.first_seconds * 1000:.0f} ms",
            f"KV cache from prefill to decode: {moved.bytes_sent:,} bytes sent, {moved.bytes_received:,} received, "
            f"for {moved.tokens_received} of {answer.prompt_tokens} prompt tokens",
            f"decode computed {moved.decode_computed} prompt token(s) itself (the last one starts the answer): "
            f"{recomputed} recomputed, {moved.fallbacks} fallbacks to a local prefill",
        )
    )


def _yes(value: bool) -> str:
    return "yes" if value else "NO"
