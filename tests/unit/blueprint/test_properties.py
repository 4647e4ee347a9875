"""What holds for every model, load and split, whatever the numbers."""

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tandem.blueprint.config import from_config
from tandem.blueprint.derive import derive
from tandem.blueprint.fits import Room, changes, judge
from tandem.blueprint.gpus import SPEEDS
from tandem.blueprint.memory import Load
from tandem.blueprint.roofline import bounds
from tandem.blueprint.split import Split, split_of, tensor_parallel
from tests.unit.blueprint.configs import DEEPSEEK_V3, GOLDEN, NEMOTRON_NANO, gemma3

MODELS = [
    from_config(config)
    for config in (*(model.config() for model in GOLDEN), DEEPSEEK_V3, NEMOTRON_NANO, gemma3(2560, 34, 8, 4, 10240))
]
SOME = settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
LOADS = st.builds(
    Load,
    batch=st.integers(1, 512),
    length=st.integers(1, 200_000),
    step=st.integers(1, 16_384),
    kv_bytes=st.sampled_from([1, 2, 4]),
    block=st.sampled_from([1, 16, 64]),
)
ROOMS = st.builds(Room, memory=st.integers(1, 10**12), usable=st.floats(0.1, 1), gpu=st.booleans())
PARAMETERS = st.fixed_dictionaries(
    {},
    optional={
        **{
            f"{name}_parallel_size": st.sampled_from([1, 2, 3, 4, 8, 16])
            for name in ("tensor", "pipeline", "data", "moe_expert")
        },
        "enable_attention_dp": st.booleans(),
        "enable_expert_parallel": st.booleans(),
    },
)
BACKENDS = st.sampled_from(["torch", "vllm", "sglang", "trtllm"])


@SOME
@given(model=st.sampled_from(MODELS), load=LOADS, room=ROOMS, backend=BACKENDS, parameters=PARAMETERS)
def test_every_question_has_an_answer(model, load, room, backend, parameters):
    split = split_of(backend, parameters)
    verdict = judge(model, load, split, room)

    assert verdict.needed == verdict.parts.total > 0
    assert verdict.fits == (verdict.needed <= verdict.available and not verdict.problems)
    assert str(verdict)
    assert min(verdict.parts.weights, verdict.parts.activation) > 0


@SOME
@given(model=st.sampled_from(MODELS), load=LOADS, room=ROOMS)
def test_each_change_that_is_named_makes_it_fit(model, load, room):
    for change in changes(model, load, Split(), room):
        assert change.needed <= room.available
        if change.parameter == "max_batch_size":
            assert judge(model, replace(load, batch=change.value), Split(), room).fits
        elif change.parameter == "tensor_parallel_size":
            assert judge(model, load, tensor_parallel(change.value), room).fits


@SOME
@given(model=st.sampled_from(MODELS), load=LOADS, room=ROOMS, more=st.integers(1, 10_000))
def test_more_never_needs_less(model, load, room, more):
    needed = judge(model, load, Split(), room).needed

    assert judge(model, replace(load, batch=load.batch + more), Split(), room).needed >= needed
    assert judge(model, replace(load, length=load.length + more), Split(), room).needed >= needed
    assert judge(model, replace(load, step=load.step + more), Split(), room).needed >= needed


@SOME
@given(model=st.sampled_from(MODELS), load=LOADS, size=st.sampled_from([2, 4, 8, 16]))
def test_all_gpus_together_hold_at_least_the_model(model, load, size):
    room = Room(memory=10**12)
    one, share = judge(model, load, Split(), room), judge(model, load, tensor_parallel(size), room)

    assert one.parts.weights <= size * share.parts.weights
    assert share.parts.weights <= one.parts.weights
    assert one.parts.kv <= size * share.parts.kv


GIVEN = st.dictionaries(
    st.sampled_from(
        [
            *("max_seq_len", "max_batch_size", "max_num_tokens", "kv_cache_max_tokens", "tensor_parallel_size"),
            *("pipeline_parallel_size", "data_parallel_size", "enable_chunked_prefill", "kv_cache_dtype"),
        ]
    ),
    st.none() | st.booleans() | st.integers(-5, 300_000) | st.sampled_from(["fp8", "auto", "x"]),
)


@SOME
@given(
    model=st.sampled_from(MODELS),
    backend=BACKENDS,
    given=GIVEN,
    room=ROOMS | st.none(),
    gpus=st.integers(0, 16),
    typical=st.integers(1, 10**6) | st.none(),
)
def test_what_follows_is_judged_as_it_says_and_adds_nothing_to_what_is_given(
    model, backend, given, room, gpus, typical
):
    found = derive(model, backend, given, room, gpus=gpus, typical=typical)

    assert not {name for name in found.parameters if given.get(name) is not None}
    assert all(value > 0 for value in found.parameters.values())
    assert found.parameters.get("tensor_parallel_size", 1) <= max(1, gpus)
    if room is not None:
        assert found.fits == judge(model, found.load, found.split, room).fits


@SOME
@given(model=st.sampled_from(MODELS), load=LOADS, name=st.sampled_from(sorted(SPEEDS)), gpus=st.integers(1, 8))
def test_bounds_are_numbers_above_zero(model, load, name, gpus):
    found = bounds(model, load, SPEEDS[name], gpus=gpus)

    assert 0 < found.token_seconds < float("inf")
    assert 0 < found.first_token_seconds < float("inf")
    assert found.tokens_per_second * found.token_seconds == pytest.approx(load.batch)
