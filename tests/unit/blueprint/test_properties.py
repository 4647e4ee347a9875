"""What holds for every model, load and split, whatever the numbers."""

from dataclasses import replace

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tandem.blueprint.config import from_config
from tandem.blueprint.fits import Room, changes, judge
from tandem.blueprint.memory import Load
from tandem.blueprint.split import Split, split_of, tensor_parallel
from tests.unit.blueprint.configs import DEEPSEEK_V3, GOLDEN, NEMOTRON_NANO, gemma3

MODELS = [
    from_config(config)
    for config in (*(model.config() for model in GOLDEN), DEEPSEEK_V3, NEMOTRON_NANO, gemma3(2560, 34, 8, 4, 10240))
]
SOME = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
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
