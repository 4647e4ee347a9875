"""The bodies of the two legs, and what of prefill's answer may pass on."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem.gateway.fleet import Endpoint, Role
from tandem.gateway.protocol import (
    Backend,
    BadHandoff,
    Handoff,
    decode_body,
    prefill_body,
    read_handoff,
    strip,
    why_not_handed_off,
)

PREFILL = Endpoint("p-0", "10.0.0.7", 8000, Role.PREFILL, "r", True)
COMMON = {
    "do_remote_prefill": True,
    "do_remote_decode": False,
    "remote_engine_id": "e",
    "remote_request_id": "r",
    "remote_host": "10.0.0.7",
    "remote_port": 5600,
}
# As vLLM 0.32 returned them on a real run, and as the torch server must.
GOOD = {
    Backend.VLLM: {
        **COMMON,
        "remote_block_ids": [[1, 2]],
        "tp_size": 1,
        "dcp_size": 1,
        "pp_size": 1,
        "remote_num_tokens": 9,
        "remote_blocks_expiry_time": 1.5,
        "transfer_mode": "pull",
        "remote_prefill_cached_tokens": 0,
    },
    Backend.TORCH: {**COMMON, "remote_num_tokens": 9, "remote_lease_seconds": 30, "remote_token": "0a"},
}
REQUIRED = {
    Backend.VLLM: {*COMMON, "remote_block_ids", "tp_size"},
    Backend.TORCH: {*COMMON, "remote_num_tokens", "remote_lease_seconds", "remote_token"},
}
backends = st.sampled_from(sorted(REQUIRED))
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def read(backend, params, prefill=PREFILL):
    return read_handoff(backend, {"choices": [], "kv_transfer_params": params}, prefill)


@pytest.mark.parametrize("backend", REQUIRED)
def test_what_real_workers_send_is_accepted_as_it_is(backend):
    found = read(backend, GOOD[backend])
    assert isinstance(found, Handoff)
    assert found.params == GOOD[backend]


@pytest.mark.parametrize(("backend", "key"), [(b, k) for b in REQUIRED for k in sorted(REQUIRED[b])])
def test_every_required_key_is_required(backend, key):
    found = read(backend, {name: value for name, value in GOOD[backend].items() if name != key})
    assert found == BadHandoff(key, "is missing")


@settings(deadline=None)
@given(backends, st.data())
def test_altered_parameters_never_pass_with_a_required_key_of_the_wrong_kind(backend, data):
    params = dict(GOOD[backend])
    for key in data.draw(st.lists(st.sampled_from(sorted(params)), max_size=4)):
        if data.draw(st.booleans()):
            params.pop(key, None)
        else:
            params[key] = data.draw(values)
    found = read(backend, params)
    assert isinstance(found, Handoff | BadHandoff)
    if isinstance(found, Handoff):
        assert found.params == params
        assert params["do_remote_prefill"] is True
        assert params["do_remote_decode"] is False
        assert all(isinstance(params[key], str) and params[key] for key in ("remote_request_id", "remote_engine_id"))
        assert 0 < params["remote_port"] < 65536


@settings(deadline=None)
@given(backends, values)
def test_any_other_answer_is_refused_or_means_no_handoff(backend, answer):
    found = read_handoff(backend, answer, PREFILL)
    offers = isinstance(answer, dict) and answer.get("kv_transfer_params") is not None
    assert isinstance(found, BadHandoff) if offers or not isinstance(answer, dict) else found is None


def test_a_push_worker_need_not_name_blocks():
    params = {key: value for key, value in GOOD[Backend.VLLM].items() if key != "remote_block_ids"}
    assert isinstance(read(Backend.VLLM, params), BadHandoff)
    assert isinstance(read(Backend.VLLM, {**params, "transfer_mode": "push"}), Handoff)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "::1", "0.0.0.0", "[::]"])
def test_a_worker_that_advertises_loopback_to_other_pods_is_told_what_to_set(host):
    found = read(Backend.VLLM, {**GOOD[Backend.VLLM], "remote_host": host})
    assert isinstance(found, BadHandoff)
    assert "VLLM_NIXL_SIDE_CHANNEL_HOST" in str(found)
    local = Endpoint("p-0", "127.0.0.1", 1, Role.PREFILL, "r", True)
    assert isinstance(read(Backend.VLLM, {**GOOD[Backend.VLLM], "remote_host": host}, local), Handoff)


@pytest.mark.parametrize(
    ("body", "leg"),
    [
        ({"prompt": "a"}, {"prompt": "a", "max_tokens": 1, "stream": False}),
        (
            {"prompt": "a", "max_tokens": 9, "max_completion_tokens": 9, "n": 3, "best_of": 3, "stream": True},
            {"prompt": "a", "max_tokens": 1, "max_completion_tokens": 1, "n": 1, "best_of": 1, "stream": False},
        ),
        (
            {"messages": [], "stream_options": {}, "min_tokens": 4, "temperature": 0.5, "stop": ["x"]},
            {"messages": [], "temperature": 0.5, "stop": ["x"], "max_tokens": 1, "stream": False},
        ),
    ],
)
@pytest.mark.parametrize(("backend", "own"), [(Backend.VLLM, {}), (Backend.TORCH, {"offer_early": True})])
def test_prefill_is_asked_for_one_token_and_a_handoff(body, leg, backend, own):
    asked = prefill_body(backend, body)
    assert asked.pop("kv_transfer_params") == {"do_remote_decode": True, "do_remote_prefill": False, **own}
    assert asked == leg


@settings(deadline=None)
@given(st.dictionaries(st.text(max_size=6).filter(lambda key: key != "kv_transfer_params"), values, max_size=5),
       st.sampled_from([None, 2]))  # fmt: skip
def test_decode_gets_the_clients_bytes_with_the_parameters_in_front(body, indent):
    raw = b" \n" + json.dumps(body, indent=indent).encode() + b"\n"
    handoff = Handoff(GOOD[Backend.TORCH])
    sent = decode_body(raw, handoff)
    assert json.loads(sent) == {**body, "kv_transfer_params": GOOD[Backend.TORCH]}
    assert sent.endswith(raw.strip()[1:].strip() + b"\n")


@pytest.mark.parametrize(
    ("body", "clean", "names"),
    [
        ({"a": 1}, {"a": 1}, ()),
        ({"a": 1, "kv_transfer_params": None}, {"a": 1}, ("kv_transfer_params",)),
        ({"vllm_xargs": {"x": 1}}, {"vllm_xargs": {"x": 1}}, ()),
        (
            {"kv_transfer_params": {}, "vllm_xargs": {"x": 1, "kv_transfer_params": 2}},
            {"vllm_xargs": {"x": 1}},
            ("kv_transfer_params", "vllm_xargs.kv_transfer_params"),
        ),
    ],
)
def test_what_only_the_router_may_say_is_taken_out(body, clean, names):
    assert strip(body) == (clean, names)


@pytest.mark.parametrize(
    ("body", "torch", "vllm"),
    [
        ({"prompt": "a"}, None, None),
        ({"prompt": ["a"]}, None, None),
        ({"prompt": [1, 2, 3]}, None, None),
        ({"prompt": [[1, 2, 3]]}, None, None),
        ({"prompt": ["a", "b"]}, None, "prompt_batch"),
        ({"prompt": [[1], [2]]}, None, "prompt_batch"),
        ({"prompt": "a", "n": 2}, None, "several_choices"),
        ({"prompt": "a", "best_of": 2}, None, "several_choices"),
        ({"prompt": "a", "n": 1, "logprobs": 1}, None, None),
        ({"prompt": "a", "echo": True}, None, None),
        ({"prompt": "a", "echo": True, "logprobs": 0}, "prompt_logprobs", "prompt_logprobs"),
        ({"messages": [], "prompt_logprobs": 1}, "prompt_logprobs", "prompt_logprobs"),
        ({"messages": [], "logprobs": True}, None, None),
    ],
)
def test_requests_that_one_handoff_cannot_carry_are_known(body, torch, vllm):
    assert why_not_handed_off(Backend.TORCH, body) == torch
    assert why_not_handed_off(Backend.VLLM, body) == vllm
