"""`tandem-serve` under more than it can take: every client is answered or refused, memory stays, the next is right."""

from __future__ import annotations

import asyncio
import collections
import http.client
import json
import os
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.serve.processes import ServerProcess, ready, server
from tests.unit.serve import tiny

pytestmark = pytest.mark.integration

MB = 1_000_000
KEY = "sk-first"
BODY = {"prompt": tiny.TEXT, "temperature": 0, "max_tokens": 8, "ignore_eos": True}
LIMIT_SECONDS = 300
"""Only bounds a failure."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_llama(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("secret") / "keys"
    path.write_text(f"{KEY}\n")
    return path


@pytest.fixture(scope="module")
def one(model: Path, keys: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    logs = tmp_path_factory.mktemp("logs")
    with server(logs, "--model", str(model), "--served-model-name", "tiny", "--api-key-file", str(keys)) as process:
        yield ready(process)


def text(one: ServerProcess) -> str:
    status, answer = one.request("/v1/completions", BODY, key=KEY)
    assert status == 200, answer
    return answer["choices"][0]["text"]


def post(body: bytes, *headers: bytes) -> bytes:
    head = [
        b"POST /v1/completions HTTP/1.1",
        b"Host: x",
        b"Content-Type: application/json",
        b"Authorization: Bearer " + KEY.encode(),
        b"Content-Length: %d" % len(body),
        *headers,
    ]
    return b"\r\n".join(head) + b"\r\n\r\n" + body


def completion(**fields: Any) -> bytes:
    return post(json.dumps(BODY | fields).encode())


async def ask(port: int, data: bytes) -> str:
    """The status of the answer to raw bytes, or how the connection ended."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        line = await reader.readline()
        while len(await reader.read(1 << 16)) == 1 << 16:
            pass
        return line.split()[1].decode() if line.startswith(b"HTTP/1.1 ") else "closed"
    except ConnectionError:
        return "closed"
    finally:
        writer.transport.abort()


def storm(one: ServerProcess, requests: Iterable[bytes]) -> collections.Counter[str]:
    """Sends all at once; how often which answer came. Prints them with the server's memory."""

    async def all_at_once() -> list[str]:
        async with asyncio.timeout(LIMIT_SECONDS):
            return await asyncio.gather(*(ask(one.port, data) for data in requests))

    before = one.rss()
    answers = collections.Counter(asyncio.run(all_at_once()))
    print(f"{dict(answers)}, memory {before // MB} MB, then {one.rss() // MB} MB")
    return answers


def test_a_thousand_clients_are_each_answered_or_refused(one: ServerProcess) -> None:
    right, before = text(one), one.rss()
    answers = storm(one, (completion(stream=number % 2 == 0) for number in range(1000)))
    assert set(answers) <= {"200", "429"}
    assert answers["200"] >= 16
    assert answers.total() == 1000
    assert one.rss() < before + 300 * MB
    assert text(one) == right


@pytest.mark.parametrize(
    "body",
    [b'{"prompt": "' + b"a " * (5 * MB - 10) + b'"}', b'{"prompt": "a", "x": [' + b"{}," * 3_300_000 + b"1]}"],
    ids=["text", "objects"],
)
def test_bodies_of_10_mb_do_not_add_up(one: ServerProcess, body: bytes) -> None:
    right, before = text(one), one.rss()
    answers = storm(one, [post(body)] * 12)
    assert set(answers) <= {"413", "429", "closed"}
    assert answers["413"] + answers["429"] > 0
    assert one.rss() < before + 300 * MB
    assert text(one) == right


def test_what_is_not_http_or_not_text_is_refused(one: ServerProcess) -> None:
    right, before = text(one), one.rss()
    flood = b"GET / HTTP/1.1\r\nHost: x\r\n"
    answers = storm(
        one,
        [
            *[post(b'{"prompt": "\xff\xfe"}')] * 10,
            *[flood + b"X-A: " + b"a" * MB + b"\r\n\r\n"] * 10,
            *[flood + b"A: b\r\n" * 50_000 + b"\r\n"] * 10,
            *[b"GET /" + b"a" * MB + b" HTTP/1.1\r\nHost: x\r\n\r\n"] * 10,
            *[os.urandom(10_000) + b"\r\n\r\n"] * 10,
        ],
    )
    assert set(answers) <= {"400", "closed"}
    assert answers["400"] >= 10
    assert one.rss() < before + 100 * MB
    assert text(one) == right


def test_clients_that_never_read_hold_up_nobody(one: ServerProcess) -> None:
    right, before = text(one), one.rss()

    async def unread() -> str:
        writers = []
        for _ in range(100):
            _, writer = await asyncio.open_connection("127.0.0.1", one.port, limit=1)
            writer.transport.pause_reading()
            writer.write(completion(stream=True, max_tokens=120, logprobs=5))
            writers.append(writer)
        try:
            async with asyncio.timeout(LIMIT_SECONDS):
                while (found := await asyncio.to_thread(one.request, "/v1/completions", BODY, key=KEY))[0] == 429:  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
            return found[1]["choices"][0]["text"]
        finally:
            for writer in writers:
                writer.transport.abort()

    assert asyncio.run(unread()) == right
    assert one.rss() < before + 100 * MB


def test_keys_are_taken_from_the_file_as_it_changes(one: ServerProcess, keys: Path) -> None:
    status, refused = one.request("/v1/completions", BODY, key="sk-second")
    assert (status, refused["error"]["code"]) == (401, "invalid_api_key")
    keys.write_text(f"{KEY}\nsk-second\n")
    deadline = time.monotonic() + 120
    while one.request("/v1/completions", BODY, key="sk-second")[0] != 200:
        assert time.monotonic() < deadline, one.log.read_text()
        time.sleep(0.1)
    one.wait_for("API keys read again: 2")
    assert KEY not in one.log.read_text()


def test_every_line_of_the_log_is_json(one: ServerProcess) -> None:
    for line in one.log.read_text().splitlines():
        assert {"time", "level", "logger", "message"} <= set(json.loads(line))


def test_s1_16_a_client_that_never_reads_does_not_hold_up_the_end(model: Path, tmp_path: Path) -> None:
    with server(tmp_path, "--model", str(model)) as process:
        ready(process)
        stream = http.client.HTTPConnection("127.0.0.1", process.port, timeout=60)
        body = json.dumps({**BODY, "max_tokens": 500, "logprobs": 5, "stream": True})
        stream.request("POST", "/v1/completions", body, {"content-type": "application/json"})
        process.wait_for("ready")
        assert process.stop() == 0
        assert [line["level"] for line in process.lines() if line["message"] == "drained"] == ["info"]


STUCK = """
import ctypes, threading, time
from tandem_serve.engine import stall
from tandem_serve.engine import runner
stall.EXIT_SECONDS = 3.0
forward = runner.ModelRunner.forward
def hang(*arguments):
    if threading.current_thread().name == "engine":
        {hang}
    return forward(*arguments)
runner.ModelRunner.forward = hang
"""


def test_a_stuck_device_fails_liveness_answers_who_waits_and_ends_the_process(model: Path, tmp_path: Path) -> None:
    fault = STUCK.format(hang="time.sleep(600)")
    with server(tmp_path, "--model", str(model), "--stuck-seconds", "1", fault=fault) as process:
        ready(process)
        assert process.request("/livez")[0] == 200
        waiting: list[tuple[int, Any]] = []
        client = threading.Thread(target=lambda: waiting.append(process.request("/v1/completions", BODY)))
        client.start()
        told = process.wait_for("the engine is stuck")
        assert "in hang" in told["stacks"]
        status, alive = process.request("/livez")
        assert (status, alive["status"]) == (503, "stuck")
        assert "the device is stuck" in alive["message"]
        assert process.request("/v1/completions", BODY)[1]["error"]["code"] == "stuck"
        client.join(60)
        assert waiting[0][0] == 500
        assert "the device is stuck" in waiting[0][1]["error"]["message"]
        assert process.process.wait(60) == 1
        assert process.lines()[-1]["message"].startswith("error: engine: a step of the model has taken")


def test_a_stuck_device_that_holds_the_interpreter_ends_the_process(model: Path, tmp_path: Path) -> None:
    fault = STUCK.format(hang="ctypes.PyDLL(None).sleep(600)")
    with server(tmp_path, "--model", str(model), "--stuck-seconds", "1", fault=fault) as process:
        ready(process)
        connection = http.client.HTTPConnection("127.0.0.1", process.port, timeout=60)
        connection.request("POST", "/v1/completions", json.dumps(BODY), {"content-type": "application/json"})
        assert process.process.wait(60) == 1
        assert "in hang" in process.log.read_text()


def test_sigterm_ends_a_stuck_server_at_once(model: Path, tmp_path: Path) -> None:
    fault = STUCK.format(hang="time.sleep(600)").replace("3.0", "600.0")
    with server(tmp_path, "--model", str(model), "--stuck-seconds", "1", fault=fault) as process:
        ready(process)
        connection = http.client.HTTPConnection("127.0.0.1", process.port, timeout=60)
        connection.request("POST", "/v1/completions", json.dumps(BODY), {"content-type": "application/json"})
        process.wait_for("the engine is stuck")
        assert process.stop(signal.SIGTERM) == 1
