"""The demo calls a run right only when the text is right and the KV came from prefill, and says so in figures."""

from dataclasses import replace

import pytest

from demo.passages import passages, rest_of
from demo.report import report
from demo.run import Answer, HandOff, Outcome

PASSAGE = passages()[0]
ANSWER = Answer(text=rest_of(PASSAGE), prompt_tokens=20, answer_tokens=81, first_seconds=0.5, seconds=2.5)
MOVED = HandOff(bytes_sent=81920, bytes_received=81920, tokens_received=20, decode_computed=1, fallbacks=0)


def test_a_right_run_is_told_in_figures():
    outcome = Outcome(PASSAGE, ANSWER, MOVED)
    assert outcome.word_for_word
    assert outcome.handed_off
    assert report(outcome).splitlines() == [
        "the passage, word for word: yes",
        "81 tokens at 40 tokens/s, the first after 500 ms",
        "KV cache from prefill to decode: 81,920 bytes sent, 81,920 received, for 20 of 20 prompt tokens",
        "decode computed 1 prompt token(s) itself (the last one starts the answer): 0 recomputed, "
        "0 fallbacks to a local prefill",
    ]


@pytest.mark.parametrize("text", ["", rest_of(PASSAGE)[:-1], rest_of(PASSAGE) + "!", rest_of(PASSAGE).strip()])
def test_a_text_that_differs_anywhere_is_not_word_for_word(text):
    outcome = Outcome(PASSAGE, replace(ANSWER, text=text), MOVED)
    assert not outcome.word_for_word
    assert report(outcome).startswith("the passage, word for word: NO")


@pytest.mark.parametrize(
    "changes",
    [
        {"bytes_sent": 0, "bytes_received": 0},
        {"bytes_received": 81919},
        {"decode_computed": 20},
        {"fallbacks": 1},
    ],
)
def test_a_prompt_that_decode_computed_again_is_not_a_hand_off(changes):
    assert not Outcome(PASSAGE, ANSWER, replace(MOVED, **changes)).handed_off


def test_recomputed_tokens_are_told():
    assert "19 recomputed" in report(Outcome(PASSAGE, ANSWER, replace(MOVED, decode_computed=20)))
