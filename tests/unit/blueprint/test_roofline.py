"""Bounds of speed: worked out by hand for models whose numbers are known."""

from dataclasses import replace

import pytest

from tandem.api.problems import Refused
from tandem.blueprint.config import from_config
from tandem.blueprint.document import from_dict
from tandem.blueprint.gpus import GPUS, SPEEDS, gpu_memory, gpu_name
from tandem.blueprint.memory import Load
from tandem.blueprint.roofline import bounds
from tests.unit.blueprint.configs import DEEPSEEK_V3, GOLDEN, config, gemma3

H100 = SPEEDS["H100-80GB"]
LLAMA = from_config(GOLDEN[0].config())
# All weights but the embedding, of which a token looks up one row.
READ = 2 * (8_030_261_248 - 128_256 * 4096 - 65 * 4096)


def load(batch=1, length=8192):
    return Load(batch=batch, length=length, step=8192)


def test_a_token_waits_until_weights_and_cache_are_read():
    found = bounds(LLAMA, load(8), H100)

    assert found.token_seconds == pytest.approx((READ + 8 * 8192 * 131_072) / 3.35e12, rel=1e-4)
    assert found.tokens_per_second == pytest.approx(8 / found.token_seconds)
    assert found.limited_by == "memory"


def test_sequences_that_share_a_cache_read_no_more_than_that():
    shared = bounds(LLAMA, replace(load(8), cache_tokens=3 * 8192), H100)

    assert shared.token_seconds == pytest.approx(bounds(LLAMA, load(3), H100).token_seconds)
    assert bounds(LLAMA, replace(load(8), cache_tokens=10**9), H100) == bounds(LLAMA, load(8), H100)


def test_many_sequences_wait_for_the_computation():
    found = bounds(LLAMA, load(4096, 16), H100)

    assert found.limited_by == "compute"
    assert found.token_seconds == pytest.approx(4096 * READ / 989.4e12, rel=0.01)


def test_the_first_token_waits_until_the_prompt_is_computed():
    weights = 8192 * (READ - 2 * 128_256 * 4096) + 2 * 128_256 * 4096
    attention = 32 * 4 * 32 * 128 * 8192 * 8193 / 2

    assert bounds(LLAMA, load(), H100).first_token_seconds == pytest.approx((weights + attention) / 989.4e12, rel=1e-4)
    assert bounds(LLAMA, load(length=1), H100).first_token_seconds == pytest.approx(READ / 3.35e12, rel=1e-4)


def test_gpus_share_without_loss():
    one, eight = (bounds(LLAMA, load(), H100, gpus=gpus) for gpus in (1, 8))

    assert eight.token_seconds == pytest.approx(one.token_seconds / 8)
    assert eight.first_token_seconds == pytest.approx(one.first_token_seconds / 8)


def test_of_experts_only_those_of_one_token_must_be_read():
    model = from_config(DEEPSEEK_V3)
    found = bounds(model, load(length=1), SPEEDS["H200-141GB"])

    assert 35.5e9 / 4.8e12 < found.token_seconds < 38.5e9 / 4.8e12  # 37 billion parameters, mostly of one byte


def test_windows_bound_what_is_looked_at():
    model = from_config(gemma3(5376, 62, 32, 16, 21504, 128))
    long, short = (bounds(model, load(length=length), H100) for length in (131_072, 1024))

    assert long.token_seconds - short.token_seconds == pytest.approx(
        (11_173_625_856 - 507_904 * 1024) / 3.35e12, rel=0.01
    )


def test_a_smaller_format_is_read_and_computed_faster():
    whole = bounds(LLAMA, load(4096, 16), H100)
    eighth = bounds(from_config({**GOLDEN[0].config(), "quantization_config": {"quant_method": "fp8"}}), load(), H100)

    assert eighth.token_seconds < bounds(LLAMA, load(), H100).token_seconds
    assert whole.limited_by == "compute"
    assert SPEEDS["A100-80GB"].bits4 == SPEEDS["A100-80GB"].bits8 > SPEEDS["A100-80GB"].bits16


def test_layers_that_are_not_known_have_no_bounds():
    assert bounds(from_dict({"schema_version": 1, "weight_bytes": 10}), load(), H100) is None


@pytest.mark.parametrize("name", SPEEDS)
def test_every_gpu_has_a_speed_and_a_memory(name):
    speed = SPEEDS[name]

    assert GPUS[name] > 2**33
    assert 1e11 < speed.bandwidth < 1e13
    assert 1e13 < speed.bits16 <= speed.bits8 <= speed.bits4 < 1e17


def test_a_gpu_is_found_by_a_short_name():
    assert gpu_name("h200") == "H200-141GB"
    assert gpu_memory("t4") == GPUS["T4-16GB"]
    with pytest.raises(Refused, match="more than one"):
        gpu_name("A100")


def test_bounds_grow_with_what_is_asked():
    model = from_config(config("llama", (256, 4, 4, 2, 64, 512, 1000)))
    base = bounds(model, load(2, 64), H100)

    for more in (load(3, 64), load(2, 65)):
        found = bounds(model, more, H100)
        assert found.token_seconds > base.token_seconds
        assert found.first_token_seconds >= base.first_token_seconds
    assert bounds(model, replace(load(2, 64), kv_bytes=1), H100).token_seconds < base.token_seconds
