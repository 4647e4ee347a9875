"""From logits to tokens."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch

from tandem_serve.engine.sampling import Biases, change_logits, make_generator, sample, sample_together, token_logprobs
from tandem_serve.engine.types import SamplingParams

CPU = torch.device("cpu")
LOGITS = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()


def draws(count: int = 2500, **fields: float) -> list[float]:
    params = SamplingParams(max_tokens=1, **fields)
    generator = make_generator(3, CPU)
    tokens = [sample(LOGITS[None], [params], [generator])[0] for _ in range(count)]
    return [tokens.count(token) / count for token in range(4)]


def test_temperature_zero_takes_the_most_likely() -> None:
    assert draws(10, temperature=0.0) == [1, 0, 0, 0]


def test_temperature_one_follows_the_probabilities() -> None:
    for share, expected in zip(draws(temperature=1.0), (0.5, 0.3, 0.15, 0.05), strict=True):
        assert abs(share - expected) < 0.03


def test_top_k_keeps_the_best_k() -> None:
    shares = draws(temperature=1.0, top_k=2)
    assert shares[2:] == [0, 0]
    assert abs(shares[0] - 0.625) < 0.03


def test_top_p_keeps_the_smallest_set_that_reaches_it() -> None:
    assert draws(500, temperature=1.0, top_p=0.79)[2:] == [0, 0]
    assert draws(500, temperature=1.0, top_p=0.81)[2] > 0
    assert draws(50, temperature=1.0, top_p=0.0) == [1, 0, 0, 0]


def test_min_p_keeps_what_is_near_the_most_likely() -> None:
    assert draws(500, temperature=1.0, min_p=0.25)[3] == 0
    assert draws(500, temperature=1.0, min_p=0.25)[2] > 0
    assert draws(50, temperature=1.0, min_p=1.0) == [1, 0, 0, 0]


def test_top_p_of_a_flat_distribution_takes_more_than_the_likely_tokens() -> None:
    params = SamplingParams(max_tokens=1, temperature=1.0, top_p=0.9)
    generator = make_generator(3, CPU)
    tokens = [sample(torch.zeros(1, 1000), [params], [generator])[0] for _ in range(300)]
    assert len(set(tokens)) > 200


LIMITS: list[dict[str, Any]] = [
    {},
    {"top_k": 2},
    {"top_p": 0.79},
    {"top_p": 0.0},
    {"min_p": 0.25},
    {"top_k": 3, "top_p": 0.81},
    {"temperature": 0.5, "top_p": 0.81, "min_p": 0.1},
]


@pytest.mark.parametrize("fields", LIMITS, ids=str)
def test_drawing_many_rows_in_one_go_follows_the_same_probabilities(fields: dict[str, Any]) -> None:
    params = SamplingParams(max_tokens=1, **{"temperature": 1.0} | fields)
    one_by_one = draws(**{"temperature": 1.0} | fields)
    drawn = [(row, params, make_generator(row, CPU)) for row in range(4000)]
    counts = Counter(sample_together(LOGITS.expand(4000, 4), drawn).tolist())
    for token, share in enumerate(one_by_one):
        assert abs(counts[token] / 4000 - share) < 0.04
        assert bool(counts[token]) == bool(share)


def test_in_one_go_a_row_gets_what_it_gets_alone() -> None:
    logits = torch.randn(len(LIMITS) + 1, 500, generator=torch.Generator().manual_seed(1))
    params = [SamplingParams(max_tokens=1, **{"temperature": 1.0} | fields) for fields in LIMITS]

    def drawn(rows: list[int]) -> list[Any]:
        return [(place, params[row], make_generator(row, CPU)) for place, row in enumerate(rows)]

    everything = list(range(len(LIMITS)))
    together = sample_together(logits, drawn(everything)).tolist()
    assert together[-1] == int(logits[-1].argmax()), "not drawn"
    for row in everything:
        assert sample_together(logits[row : row + 1], drawn([row])).tolist() == [together[row]]


def test_a_token_without_probability_is_never_drawn_in_one_go() -> None:
    logits = torch.full((300, 1000), float("-inf"))
    logits[:, 7] = -50.0
    drawn = [(row, SamplingParams(max_tokens=1, temperature=2.0), make_generator(row, CPU)) for row in range(300)]
    assert set(sample_together(logits, drawn).tolist()) == {7}


def test_log_probabilities_with_as_many_alternatives_as_each_asked_for() -> None:
    none, two = token_logprobs([LOGITS, LOGITS + 1], tokens=[3, 1], alternatives=[0, 2])
    assert (none.token_id, none.top) == (3, ())
    assert none.logprob == pytest.approx(LOGITS[3].item())
    assert [token for token, _ in two.top] == [0, 1]
    assert two.logprob == pytest.approx(two.top[1][1]) == pytest.approx(LOGITS[1].item())


def changed(prompt: list[int], generated: list[int], **fields: Any) -> list[float]:
    logits = torch.tensor([2.0, 1.0, -1.0, 0.5])
    params = SamplingParams(max_tokens=1, **fields)
    change_logits(logits, params, Biases.of(params, logits.device), prompt=prompt, generated=generated)
    return logits.tolist()


def test_presence_counts_once_and_frequency_every_time_and_neither_the_prompt() -> None:
    assert changed([3], [0, 0, 1], presence_penalty=0.5) == [1.5, 0.5, -1.0, 0.5]
    assert changed([3], [0, 0, 1], frequency_penalty=0.5) == [1.0, 0.5, -1.0, 0.5]
    assert changed([3], [], frequency_penalty=0.5) == [2.0, 1.0, -1.0, 0.5]


def test_repetition_counts_the_prompt_too() -> None:
    assert changed([3, 2], [0, 0], repetition_penalty=2.0) == [1.0, 1.0, -2.0, 0.25]


def test_a_bias_is_added() -> None:
    assert changed([], [], logit_bias=((1, 3.0), (2, -1.0))) == [2.0, 4.0, -2.0, 0.5]


def test_rows_are_drawn_by_their_own_parameters() -> None:
    logits = LOGITS.expand(3, 4)
    params = [SamplingParams(max_tokens=1, temperature=t, top_k=k) for t, k in ((0.0, 0), (2.0, 1), (1.0, 0))]
    generators = [None, make_generator(1, CPU), make_generator(1, CPU)]
    first = sample(logits, params, generators)
    assert first[:2] == [0, 0]
    alone = sample(LOGITS[None], params[2:], [make_generator(1, CPU)])
    assert first[2] == alone[0]


def test_without_a_seed_two_sequences_differ() -> None:
    params = SamplingParams(max_tokens=1, temperature=5.0)
    logits = torch.zeros(1, 1000)
    runs = []
    for _ in range(2):
        generator = make_generator(None, CPU)
        runs.append([sample(logits, [params], [generator])[0] for _ in range(8)])
    assert runs[0] != runs[1]
