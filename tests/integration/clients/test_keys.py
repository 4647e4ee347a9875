"""OpenAI's own client through the router that asks for API keys, in front of the real server: right, wrong, rotated."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from tests.integration.gateway.routers import TANDEM, RouterProcess, router
from tests.integration.serve.processes import ServerProcess

pytestmark = pytest.mark.integration

PATIENCE_SECONDS = 120
MESSAGES = [{"role": "user", "content": "the quick"}]


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text("sk-first\n")
    return path


@pytest.fixture
def guarded(running: ServerProcess, keys: Path, tmp_path: Path) -> Iterator[RouterProcess]:
    with router(tmp_path, {"agg": running.port}, "--api-key-file", str(keys)) as one:
        yield one


def answer(url: str, key: str) -> str:
    with openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) as client:
        stream = client.chat.completions.create(
            model="tiny", messages=MESSAGES, max_tokens=4, temperature=0, stream=True
        )
        return "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)


def test_s1_30_right_wrong_and_rotated_keys(guarded: RouterProcess, keys: Path) -> None:
    told = answer(guarded.url, "sk-first")
    with pytest.raises(openai.AuthenticationError) as refused:
        answer(guarded.url, "sk-second")
    assert refused.value.code == "invalid_api_key"
    keys.write_text("sk-second\n")
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            assert answer(guarded.url, "sk-second") == told
            break
        except openai.AuthenticationError:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    with pytest.raises(openai.AuthenticationError):
        answer(guarded.url, "sk-first")
    assert "sk-" not in guarded.log.read_text()


def test_a_router_without_usable_keys_does_not_start(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("\n")
    command = [TANDEM, "router", "--deployment", "d", "--backend", "torch", "--mode", "agg", "--port", "0"]
    command += ["--served-model-name", "m", "--namespace", "ns", "--api-key-file", file]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False)
    assert done.returncode == 1
    assert f"--api-key-file: has no keys (got '{file}'). Give a readable file with one key per line." in done.stderr
