"""What the router refuses to start with."""

from __future__ import annotations

from pathlib import Path

import pytest

from tandem.api.problems import Refused
from tandem.gateway.app import create_app
from tandem.gateway.balance import Policy
from tandem.gateway.lifecycle import Lifecycle
from tandem.gateway.protocol import Backend
from tandem.gateway.server import bind, default_world
from tandem.gateway.settings import Mode, RouterSettings

GOOD = {"deployment": "d", "served_model_name": "m", "backend": "torch", "mode": "agg", "namespace": "ns"}


def test_texts_become_choices():
    settings = RouterSettings(**GOOD, policy="roundRobin")
    assert (settings.backend, settings.mode, settings.policy) == (Backend.TORCH, Mode.AGG, Policy.ROUND_ROBIN)


@pytest.mark.parametrize(
    ("changes", "path", "words"),
    [
        ({"backend": "llama.cpp"}, "--backend", "torch, vllm, sglang, trtllm"),
        ({"mode": "both"}, "--mode", "agg, disagg"),
        ({"policy": "random"}, "--policy", "leastLoaded"),
        ({"namespace": None}, "--namespace", "exactly one"),
        ({"endpoints_file": Path("x")}, "--namespace", "exactly one"),
        ({"attempts": 0}, "--attempts", "at least 1"),
        ({"port": 70000}, "--port", "not a port"),
        ({"drain_seconds": -1}, "--drain-seconds", "at least 0"),
        ({"connect_seconds": 0}, "--connect-seconds", "above 0"),
        ({"deployment": ""}, "--deployment", "empty"),
    ],
)
def test_what_cannot_work_is_refused_with_its_place_and_a_fix(changes, path, words):
    with pytest.raises(Refused) as refused:
        RouterSettings(**{**GOOD, **changes})
    [problem] = refused.value.problems
    assert problem.path == path
    assert words in f"{problem.reason} {problem.fix}"


def test_every_problem_is_told_at_once():
    with pytest.raises(Refused) as refused:
        RouterSettings(**{**GOOD, "backend": "x", "attempts": 0, "port": -1})
    assert len(refused.value.problems) == 3


def test_a_port_in_use_and_an_address_that_is_none_are_located():
    words = r"--port: cannot be used on 127\.0\.0\.1 \(Address already in use\)"
    with bind("127.0.0.1", 0) as taken, pytest.raises(Refused, match=words):
        bind("127.0.0.1", taken.getsockname()[1])
    for address in ("256.0.0.1", "192.0.2.1"):
        with pytest.raises(Refused, match="--host"):
            bind(address, 0)


def test_keys_that_cannot_be_used_are_located_and_not_shown(tmp_path):
    file = tmp_path / "keys"
    file.write_text("good\nsk secret\n")
    settings = RouterSettings(**GOOD, api_key_file=file)
    with pytest.raises(Refused, match="--api-key-file: a key consists of") as refused:
        create_app(settings, lifecycle=Lifecycle(), world=default_world(settings))
    assert f"(got '{file}:2'). Give a readable file" in str(refused.value)
    assert "secret" not in str(refused.value)
