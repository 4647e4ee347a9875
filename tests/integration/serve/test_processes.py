"""`tandem-serve` as it runs in a pod: processes that hand KV over, drain, and fail with one clear message."""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.integration.serve.processes import ServerProcess, listening, ready, server
from tests.unit.serve import tiny

pytestmark = pytest.mark.integration

TEXT = tiny.TEXT * 4
TOKEN = "hf_not_for_any_log"
BODY = {"temperature": 0, "max_tokens": 24, "ignore_eos": True}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_llama(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def workers(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, ServerProcess]]:
    """One process per role, started together."""
    logs = tmp_path_factory.mktemp("logs")
    with contextlib.ExitStack() as stack:
        started = {
            role: stack.enter_context(
                server(
                    logs, "--model", str(model), "--served-model-name", "tiny", "--role", role, env={"HF_TOKEN": TOKEN}
                )
            )
            for role in ("agg", "prefill", "decode")
        }
        for one in started.values():
            ready(one)
        yield started


def prefill(worker: ServerProcess, prompt: str) -> dict[str, Any]:
    """The router's first leg."""
    params = {"do_remote_decode": True, "do_remote_prefill": False}
    body = {**BODY, "prompt": prompt, "max_tokens": 1, "kv_transfer_params": params}
    status, answer = worker.request("/v1/completions", body)
    assert status == 200, answer
    return answer["kv_transfer_params"]


def decode(worker: ServerProcess, prompt: str, params: dict[str, Any]) -> str:
    """The router's second leg."""
    status, answer = worker.request("/v1/completions", {**BODY, "prompt": prompt, "kv_transfer_params": params})
    assert status == 200, answer
    return answer["choices"][0]["text"]


def aggregated(workers: dict[str, ServerProcess], prompt: str) -> str:
    text = workers["agg"].request("/v1/completions", {**BODY, "prompt": prompt})[1]["choices"][0]["text"]
    assert len(set(text)) > 5
    return text


def test_two_processes_give_the_text_of_one_and_the_counters_prove_the_transfer(
    workers: dict[str, ServerProcess],
) -> None:
    params = prefill(workers["prefill"], TEXT)
    assert decode(workers["decode"], TEXT, params) == aggregated(workers, TEXT)
    tokens = params["remote_num_tokens"]
    assert workers["decode"].metric('tandem_prompt_tokens_total{source="transferred"}') == tokens - 1
    assert workers["decode"].metric('tandem_prompt_tokens_total{source="computed"}') == 1
    assert workers["prefill"].metric('tandem_prompt_tokens_total{source="computed"}') == tokens
    sent = workers["prefill"].metric('tandem_kv_transfer_bytes_total{direction="sent"}')
    assert sent == workers["decode"].metric('tandem_kv_transfer_bytes_total{direction="received"}') > tokens * 100


@contextlib.contextmanager
def network(port: int, *, alter: bool = False, after: int = 0, then: Callable[[], object] = int) -> Iterator[int]:
    """A TCP proxy to a prefill worker. After so many bytes of an answer it flips a bit, or calls `then` and is gone."""
    listener = socket.create_server(("127.0.0.1", 0))

    def pump(client: socket.socket) -> None:
        with contextlib.suppress(OSError), client, socket.create_connection(("127.0.0.1", port)) as upstream:
            upstream.sendall(client.recv(65536))
            seen = 0
            while data := bytearray(upstream.recv(4096)):
                if alter and seen <= after < seen + len(data):
                    data[after - seen] ^= 1
                seen += len(data)
                client.sendall(data)
                if not alter and seen >= after:
                    then()
                    return

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=pump, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.close()


def test_altered_bytes_do_not_alter_the_text(workers: dict[str, ServerProcess]) -> None:
    text = "fox " + TEXT
    with network(workers["prefill"].port, alter=True, after=2000) as port:
        params = prefill(workers["prefill"], text) | {"remote_port": port}
        assert decode(workers["decode"], text, params) == aggregated(workers, text)
    assert workers["decode"].metric('tandem_kv_transfer_failures_total{reason="digest"}') == 1


def test_a_prefill_process_killed_before_the_transfer_does_not_alter_the_text(
    workers: dict[str, ServerProcess], model: Path, tmp_path: Path
) -> None:
    text = "dog " + TEXT
    fallbacks = workers["decode"].metric("tandem_local_prefill_fallbacks_total")
    with server(tmp_path, "--model", str(model), "--role", "prefill") as doomed:
        params = prefill(ready(doomed), text)
        assert doomed.stop(signal.SIGKILL) == -signal.SIGKILL
    assert decode(workers["decode"], text, params) == aggregated(workers, text)
    assert workers["decode"].metric('tandem_kv_transfer_failures_total{reason="connect"}') == 1
    assert workers["decode"].metric("tandem_local_prefill_fallbacks_total") == fallbacks + 1


def test_a_prefill_process_killed_during_the_transfer_does_not_alter_the_text(
    workers: dict[str, ServerProcess], model: Path, tmp_path: Path
) -> None:
    text = "bird " + TEXT
    with server(tmp_path, "--model", str(model), "--role", "prefill") as doomed:
        params = prefill(ready(doomed), text)
        with network(doomed.port, after=20_000, then=lambda: doomed.stop(signal.SIGKILL)) as port:
            assert decode(workers["decode"], text, params | {"remote_port": port}) == aggregated(workers, text)
    assert workers["decode"].metric('tandem_kv_transfer_failures_total{reason="cut"}') == 1


def test_kv_of_which_a_decode_process_died_can_be_taken_by_another_and_is_free_then(
    workers: dict[str, ServerProcess], model: Path, tmp_path: Path
) -> None:
    worker = workers["prefill"]
    text = "sun " + TEXT
    with server(tmp_path, "--model", str(model), "--role", "decode") as doomed:
        params = prefill(worker, text)
        assert worker.metric("tandem_kv_used_tokens") > 0
        kill = partial(ready(doomed).stop, signal.SIGKILL)
        with network(worker.port, after=20_000, then=kill) as port, pytest.raises((OSError, http.client.HTTPException)):
            decode(doomed, text, params | {"remote_port": port})
    assert decode(workers["decode"], text, params) == aggregated(workers, text)
    deadline = time.monotonic() + 60
    while worker.metric("tandem_kv_used_tokens") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert worker.metric("tandem_kv_used_tokens") == 0


def test_s1_18_the_token_of_the_hub_is_in_no_log(workers: dict[str, ServerProcess]) -> None:
    for worker in workers.values():
        assert TOKEN not in worker.log.read_text()


def test_s1_14_the_log_of_a_start_names_every_step_with_its_seconds(workers: dict[str, ServerProcess]) -> None:
    steps = {line["step"]: line["seconds"] for line in workers["agg"].lines() if line["message"] == "load step"}
    assert list(steps) == ["imports", "device", "config", "tokenizer", "weights", "eval", "ready"]


def test_s1_16_sigterm_lets_running_requests_end_refuses_new_ones_and_exits_with_0(model: Path, tmp_path: Path) -> None:
    with server(tmp_path, "--model", str(model)) as one:
        ready(one)
        stream = http.client.HTTPConnection("127.0.0.1", one.port, timeout=60)
        body = json.dumps({**BODY, "prompt": TEXT, "max_tokens": 500, "stream": True})
        stream.request("POST", "/v1/completions", body, {"content-type": "application/json"})
        answer = stream.getresponse()
        first = answer.readline()
        one.process.send_signal(signal.SIGTERM)
        one.wait_for("draining")
        status, refused = one.request("/v1/completions", {**BODY, "prompt": TEXT})
        assert (status, refused["error"]["code"]) == (503, "draining")
        assert one.request("/health")[0] == 503
        assert one.request("/livez")[0] == 200
        rest = answer.read().decode()
        assert first.startswith(b"data: ")
        assert rest.rstrip().endswith("data: [DONE]")
        assert '"finish_reason":"length"' in rest
        assert one.process.wait(30) == 0


def test_health_shows_loading_while_http_already_answers(model: Path, tmp_path: Path) -> None:
    with server(tmp_path, "--model", str(model)) as one:
        status, body = listening(one).request("/health")
        assert (status, body["status"]) == (503, "loading")
        assert {"loaded_bytes", "total_bytes"} <= set(body)
        assert one.request("/livez")[0] == 200
        assert one.stop() == 0, "a signal while loading ends the process at once"


def test_a_chat_template_that_cannot_be_read_is_warned_of_at_the_start(tmp_path: Path) -> None:
    model = tiny.save_llama(tmp_path / "model")
    tiny.save_tokenizer(model, chat_template="{% for message in messages %}")
    with server(tmp_path, "--model", str(model)) as one:
        line = one.wait_for("the model's chat template is broken: chats will be refused")
        assert (line["level"], line["reason"][:5]) == ("warning", "line ")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tandem_serve", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_a_port_in_use_ends_with_2(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = run("--model", str(tmp_path), "--port", str(port))
    assert ended.returncode == 2
    assert (
        f"error: --host and --port = 127.0.0.1:{port}: cannot listen there: Address already in use. Fix:"
        in ended.stderr
    )
    assert "Traceback" not in ended.stderr


def test_s1_27_a_model_that_cannot_be_loaded_ends_with_1_and_one_message(model: Path, tmp_path: Path) -> None:
    ended = run("--model", str(tmp_path / "no"), "--port", "0")
    assert ended.returncode == 1
    assert f"error: --model = {tmp_path / 'no'}: there is no such directory" in ended.stderr
    assert "Traceback" not in ended.stdout + ended.stderr
    config = json.loads((model / "config.json").read_text())
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "config.json").write_text(json.dumps(config))
    ended = run("--model", str(tmp_path / "half"), "--port", "0")
    assert ended.returncode == 1
    assert "there is no model.safetensors" in ended.stderr
