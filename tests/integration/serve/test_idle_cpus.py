"""A server that may use all CPUs as it likes: decode steps are traced, prompts are computed beside them, and whatever
comes together each client gets what transformers' own generate() gives.
"""

from __future__ import annotations

import concurrent.futures
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tandem_serve.engine.device import cpu_quota
from tests.integration.serve.processes import ServerProcess, ready, server
from tests.unit.serve import tiny

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(cpu_quota() < 2, reason="prompts are computed beside on a second CPU"),
]

CLIENTS = 8
NEW_TOKENS = 16
LENGTHS = (1, 900, 17, 300, 5, 130, 64, 2, 700, 33, 16, 257)
SHARED = 100
CONFIG = f"GENERATION: {{OCCUPANCY_SEMAPHORE: {CLIENTS}, MAX_QUEUE: 64}}\n"
FAMILIES = ("llama", "gemma2", "gpt-oss", "qwen3-moe")
BESIDE = "a step beside began"
TELL_OF_STEPS_BESIDE = f"""
import logging
from tandem_serve.engine.beside import BesideThread
start = BesideThread.start
def told(*arguments):
    logging.getLogger("tandem_serve.test").info("{BESIDE}")
    return start(*arguments)
BesideThread.start = told
"""


def prompts() -> list[list[int]]:
    """Short and long ones in turn, and some that begin like others."""
    generator = torch.Generator().manual_seed(7)
    own = [torch.randint(2, tiny.VOCABULARY, (length,), generator=generator).tolist() for length in LENGTHS]
    long = [prompt for prompt in own if len(prompt) > SHARED]
    return own + [prompt[:SHARED] + own[0] for prompt in long] + own[:2]


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A model of it."""
    directory = tmp_path / "model"
    directory.mkdir()
    return tiny.save_family(directory, request.param)


@pytest.fixture
def free(family: Path, tmp_path: Path) -> Iterator[ServerProcess]:
    """A process that nobody tells how many threads to take."""
    config = tmp_path / "config.yml"
    config.write_text(CONFIG)
    arguments = ("--model", str(family), "--config", str(config), "--kv-cache-tokens", "4096")
    with server(tmp_path, *arguments, env={"OMP_NUM_THREADS": ""}, fault=TELL_OF_STEPS_BESIDE) as one:
        ready(one).wait_for("decode steps traced")
        yield one


def test_greedy_answers_of_clients_at_once_are_those_of_generate(family: Path, free: ServerProcess) -> None:
    asked = prompts()
    expected = tiny.generated(family, asked, new_tokens=NEW_TOKENS)
    assert len({token for one in expected for token in one}) > 50, "the reference is too uniform to prove anything"

    def answer(prompt: list[int]) -> list[int]:
        body = {"prompt": prompt, "max_tokens": NEW_TOKENS, "temperature": 0, "ignore_eos": True}
        status, said = free.request("/v1/completions", body | {"return_token_ids": True})
        assert status == 200, said
        tokens: list[int] = said["choices"][0]["token_ids"]
        return tokens

    with concurrent.futures.ThreadPoolExecutor(CLIENTS) as clients:
        assert list(clients.map(answer, asked)) == expected
    assert any(line["message"] == BESIDE for line in free.lines())
    assert free.metric("tandem_kv_used_tokens") == 0
    assert free.stop() == 0
