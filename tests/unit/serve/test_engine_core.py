"""One iteration after another, on a fake clock: ends, limits, samples."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from tandem_serve.backend import build_core
from tandem_serve.engine.core import EngineCore
from tandem_serve.engine.loader import LoadedModel
from tandem_serve.engine.types import FinishReason, SamplingParams, SequenceRequest, Update
from tests.unit.serve import tiny

PROMPT = (40, 41, 42, 43, 44)


class Clock:
    """Time that only moves when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def core(model: LoadedModel, clock: Clock, **changes: Any) -> EngineCore:
    return build_core(tiny.settings(Path("x"), **changes), model, clock=clock).engine


def request(seq_id: int = 0, *, deadline: float | None = None, prompt: tuple[int, ...] = PROMPT, **sampling: Any):
    known = {"max_tokens": 12, "temperature": 0.0, "ignore_eos": True}
    return SequenceRequest(
        seq_id=seq_id,
        request_id="r",
        prompt=prompt,
        sampling=SamplingParams(**known | sampling),
        deadline=deadline,
    )


def run(engine: EngineCore) -> dict[int, list[Update]]:
    out: dict[int, list[Update]] = {}
    while engine.scheduler.busy:
        for update in engine.step()[0]:
            out.setdefault(update.seq_id, []).append(update)
    return out


def tokens(updates: list[Update]) -> list[int]:
    return [token for update in updates for token in update.token_ids]


def text(updates: list[Update]) -> str:
    return "".join(update.text for update in updates)


def ending(updates: list[Update]) -> FinishReason:
    (finish,) = [update.finish for update in updates if update.finish is not None]
    return finish.reason


def greedy(model: LoadedModel, clock: Clock, count: int = 12) -> list[int]:
    engine = core(model, clock)
    engine.add(request(max_tokens=count))
    return tokens(run(engine)[0])


def test_s1_08_a_timeout_ends_the_generation_within_one_token_and_frees_its_slot(
    llama: LoadedModel, clock: Clock
) -> None:
    engine = core(llama, clock, max_num_seqs=1)
    engine.add(request(0, deadline=clock.now + 60, max_tokens=500))
    engine.add(request(1))
    for _ in range(5):
        engine.step()
    before = engine.stats.generated_tokens
    assert (before, engine.stats.running, engine.stats.waiting) == (5, 1, 1)
    clock.now += 60
    updates, _ = engine.step()
    assert [(update.seq_id, update.finish.reason) for update in updates if update.finish] == [(0, FinishReason.TIMEOUT)]
    assert [update.seq_id for update in updates if update.started] == [1], "the slot went to the next one in this step"
    assert sum(len(update.token_ids) for update in updates if update.seq_id == 0) == 0


def test_s1_08_a_request_that_waits_too_long_times_out_too(llama: LoadedModel, clock: Clock) -> None:
    engine = core(llama, clock, max_num_seqs=1)
    engine.add(request(0, max_tokens=50))
    engine.add(request(1, deadline=clock.now + 1))
    engine.step()
    assert engine.next_deadline() == clock.now + 1
    clock.now += 1
    assert ending([update for update in engine.step()[0] if update.seq_id == 1]) is FinishReason.TIMEOUT
    assert engine.stats.waiting == 0


def test_s1_09_generation_stops_at_every_end_token(llama: LoadedModel, clock: Clock) -> None:
    free = greedy(llama, clock)
    end = free[6]
    assert end not in free[:6]
    engine = core(replace(llama, eos_ids=frozenset({end, 319})), clock)
    engine.add(request(ignore_eos=False))
    updates = run(engine)[0]
    assert tokens(updates) == free[:7]
    assert ending(updates) is FinishReason.STOP
    assert engine.stats.kv_used_tokens == 0


def test_min_tokens_puts_the_end_off(llama: LoadedModel, clock: Clock) -> None:
    free = greedy(llama, clock)
    engine = core(replace(llama, eos_ids=frozenset({free[2]})), clock)
    engine.add(request(ignore_eos=False, min_tokens=8))
    out = tokens(run(engine)[0])
    assert len(out) >= 8
    assert free[2] not in out[:8]


def test_a_repetition_penalty_is_that_of_generate(llama: LoadedModel, llama_dir: Path, clock: Clock) -> None:
    engine = core(llama, clock)
    engine.add(request(repetition_penalty=1.8))
    (expected,) = tiny.generated(llama_dir, [PROMPT], new_tokens=12, repetition_penalty=1.8)
    assert expected != greedy(llama, clock)
    assert tokens(run(engine)[0]) == expected


def test_a_stop_token_id_ends_the_sequence_and_is_not_text(llama: LoadedModel, clock: Clock) -> None:
    free = greedy(llama, clock)
    engine = core(llama, clock)
    engine.add(request(stop_token_ids=frozenset({free[4]})))
    updates = run(engine)[0]
    assert ending(updates) is FinishReason.STOP
    assert tokens(updates) == free[: free.index(free[4]) + 1]


def test_a_stop_string_cuts_the_text_and_ends_the_sequence(llama: LoadedModel, clock: Clock) -> None:
    engine = core(llama, clock)
    engine.add(request(0, max_tokens=40))
    whole = text(run(engine)[0])
    stop = whole[20:24]
    engine.add(request(1, max_tokens=40, stop=(stop,)))
    updates = run(engine)[1]
    assert text(updates) == whole[: whole.index(stop)]
    assert ending(updates) is FinishReason.STOP
    assert len(tokens(updates)) < 40


def test_a_cancelled_sequence_gives_no_more_tokens_and_its_memory_back(llama: LoadedModel, clock: Clock) -> None:
    engine = core(llama, clock)
    engine.add(request(0, max_tokens=100))
    engine.step()
    update = engine.cancel(0)
    assert update is not None
    assert update.finish is not None
    assert update.finish.reason is FinishReason.CANCELLED
    assert engine.step() == ([], False)
    assert engine.stats.kv_used_tokens == 0
    assert engine.cancel(0) is None


def test_a_seed_gives_the_same_tokens_alone_and_in_company(llama: LoadedModel, clock: Clock) -> None:
    sampled = {"temperature": 1.0, "top_p": 0.9, "top_k": 40}
    alone = core(llama, clock)
    alone.add(request(0, seed=11, **sampled))
    expected = tokens(run(alone)[0])
    engine = core(llama, clock)
    for number in range(6):
        engine.add(request(number, seed=11 if number == 3 else number, **sampled))
    out = run(engine)
    assert tokens(out[3]) == expected
    assert tokens(out[2]) != expected


def test_log_probabilities_are_those_of_the_model(llama: LoadedModel, llama_dir: Path, clock: Clock) -> None:
    engine = core(llama, clock, max_num_batched_tokens=8)
    prompt = tuple(range(20, 50))
    engine.add(request(prompt=prompt, max_tokens=4, logprobs=3, prompt_logprobs=2))
    updates = run(engine)[0]
    out = tokens(updates)
    ids = torch.tensor([[*prompt, *out]])
    model = AutoModelForCausalLM.from_pretrained(llama_dir, dtype=torch.float32)
    with torch.inference_mode():
        expected = model(ids).logits[0].log_softmax(-1)
    (of_prompt,) = [list(update.prompt_logprobs) for update in updates if update.prompt_logprobs is not None]
    assert of_prompt[0] is None
    assert [entry.token_id for entry in of_prompt[1:] if entry] == list(prompt[1:])
    for position, entry in enumerate(of_prompt[1:]):
        assert entry is not None
        assert entry.logprob == pytest.approx(float(expected[position, prompt[position + 1]]), abs=1e-3)
        assert entry.top[0][0] == int(expected[position].argmax())
    new = [entry for update in updates for entry in update.logprobs]
    for number, entry in enumerate(new):
        row = expected[len(prompt) - 1 + number]
        assert entry.logprob == pytest.approx(float(row[out[number]]), abs=1e-3)
        assert [token for token, _ in entry.top] == row.topk(3).indices.tolist()


def test_zero_new_tokens_only_score_the_prompt(llama: LoadedModel, clock: Clock) -> None:
    engine = core(llama, clock)
    engine.add(request(max_tokens=0, prompt_logprobs=0))
    updates = run(engine)[0]
    assert tokens(updates) == []
    assert [len(update.prompt_logprobs) for update in updates if update.prompt_logprobs is not None] == [len(PROMPT)]


@pytest.mark.parametrize(
    "ruled_out",
    [
        {"min_tokens": 9, "stop_token_ids": frozenset(range(tiny.VOCABULARY))},
        {"repetition_penalty": 1e-300},
        {"logit_bias": ((3, float("nan")),)},
    ],
    ids=["all tokens", "penalty", "bias"],
)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_request_that_leaves_no_token_ends_alone(
    llama: LoadedModel, clock: Clock, ruled_out: dict[str, Any], temperature: float
) -> None:
    expected = greedy(llama, clock)
    engine = core(llama, clock)
    engine.add(request(0))
    engine.add(request(1, temperature=temperature, logprobs=2, **ruled_out))
    engine.add(request(2, temperature=1.0, seed=1))
    updates = run(engine)
    assert tokens(updates[0]) == expected
    assert (ending(updates[1]), tokens(updates[1])) == (FinishReason.IMPOSSIBLE, [])
    assert len(tokens(updates[2])) == 12


def test_a_failing_step_ends_its_sequences_and_the_engine_goes_on(
    llama: LoadedModel, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = core(llama, clock)
    engine.add(request(0))
    with monkeypatch.context() as patch:
        patch.setattr(engine.runner.model, "forward", lambda **_: 1 / 0)
        updates, _ = engine.step()
    finish = updates[-1].finish
    assert finish is not None
    assert (finish.reason, finish.message) == (FinishReason.ERROR, "the model failed: ZeroDivisionError")
    assert engine.stats.kv_used_tokens == 0
    engine.add(request(1))
    assert tokens(run(engine)[1]) == greedy(llama, clock)


def test_a_failure_with_one_sequence_ends_that_one_only(llama: LoadedModel, clock: Clock) -> None:
    engine = core(llama, clock)
    for number in range(3):
        engine.add(request(number))
    engine.step()
    engine.scheduler.running[1].decoder = None
    out = run(engine)
    assert [ending(out[number]) for number in range(3)] == [
        FinishReason.LENGTH,
        FinishReason.ERROR,
        FinishReason.LENGTH,
    ]
    assert engine.stats.kv_used_tokens == 0
