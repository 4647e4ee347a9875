"""Real workers behind a real router are killed while they answer: texts stay right, or the client is told."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.integration.gateway.routers import RouterProcess, router
from tests.integration.serve.processes import ServerProcess, ready, server
from tests.unit.serve import tiny
from tests.unit.serve.conftest import load_model
from tests.unit.serve.handoffs import alone

pytestmark = pytest.mark.integration

CLIENTS, REQUESTS, NEW = 4, 24, 24
PATIENCE_SECONDS = 120


def prompt(number: int) -> str:
    """Each its own, so that no text can be mistaken for another."""
    words = tiny.TEXT.split()
    return " ".join(words[number % len(words) :] + words[: number % len(words)] + [str(number)]) * 4


@dataclass
class Fleet:
    """A router over one prefill and two decode workers."""

    router: RouterProcess
    workers: dict[str, ServerProcess]

    def kill(self, name: str) -> None:
        assert self.workers[name].stop(signal.SIGKILL) == -signal.SIGKILL


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_llama(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def right(model: Path) -> list[str]:
    """The texts that one worker gives."""
    loaded = replace(load_model(model), eos_ids=frozenset())
    texts = [alone(loaded, prompt(number), NEW) for number in range(REQUESTS)]
    assert len(set(texts)) > REQUESTS // 2
    return texts


@pytest.fixture
def fleet(model: Path, tmp_path: Path) -> Iterator[Fleet]:
    with contextlib.ExitStack() as stack:
        roles = {"prefill": "prefill", "decode-0": "decode", "decode-1": "decode"}
        arguments = ("--model", str(model), "--served-model-name", "tiny")
        workers = {
            name: stack.enter_context(server(tmp_path, *arguments, "--role", role)) for name, role in roles.items()
        }
        ports = {name: ready(worker).port for name, worker in workers.items()}
        yield Fleet(stack.enter_context(router(tmp_path, ports)), workers)


def answers(fleet: Fleet, *, at: int, then: Callable[[], None]) -> list[str | openai.APIError]:
    """The texts of all requests, every second one streamed, or how they failed; `then` happens at the start of one."""
    with openai.OpenAI(
        base_url=f"{fleet.router.url}/v1", api_key="none", max_retries=0, timeout=PATIENCE_SECONDS
    ) as client:

        def ask(number: int) -> str | openai.APIError:
            if number == at:
                then()
            fields: dict[str, Any] = {"model": "tiny", "prompt": prompt(number), "max_tokens": NEW, "temperature": 0}
            fields["extra_body"] = {"ignore_eos": True}
            try:
                if number % 2:
                    return "".join(one.choices[0].text for one in client.completions.create(**fields, stream=True))
                return client.completions.create(**fields).choices[0].text
            except openai.APIError as error:
                return error

        with ThreadPoolExecutor(CLIENTS) as pool:
            return list(pool.map(ask, range(REQUESTS)))


def free(worker: ServerProcess) -> None:
    """Waits until no KV is held."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while worker.metric("tandem_kv_used_tokens"):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_prefill_worker_that_is_killed_costs_no_answer(fleet: Fleet, right: list[str]) -> None:
    assert answers(fleet, at=REQUESTS // 3, then=lambda: fleet.kill("prefill")) == right
    decode = [fleet.workers["decode-0"], fleet.workers["decode-1"]]
    assert sum(one.metric('tandem_prompt_tokens_total{source="transferred"}') for one in decode) > 0
    for one in decode:
        free(one)


def test_a_decode_worker_that_is_killed_costs_no_answer_but_streams_under_way_which_are_told(
    fleet: Fleet, right: list[str]
) -> None:
    found = answers(fleet, at=REQUESTS // 3, then=lambda: fleet.kill("decode-0"))
    broken = [number for number, one in enumerate(found) if isinstance(one, openai.APIError)]
    assert len(broken) < CLIENTS
    assert all(number % 2 for number in broken), "only streams that had begun"
    assert [one for number, one in enumerate(found) if number not in broken] == [
        one for number, one in enumerate(right) if number not in broken
    ]
    fleet.kill("decode-1")
    with (
        openai.OpenAI(base_url=f"{fleet.router.url}/v1", api_key="none", max_retries=0) as client,
        pytest.raises(openai.APIStatusError, match="decode") as refused,
    ):
        client.completions.create(model="tiny", prompt=prompt(0))
    assert refused.value.status_code in (502, 503)
    free(fleet.workers["prefill"])
