"""Real `tandem-serve` processes on loopback, with their log lines kept."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

START_SECONDS = 300


@dataclass
class ServerProcess:
    """One process; its stderr goes to a file."""

    process: subprocess.Popen[bytes]
    log: Path
    port: int = 0

    def lines(self) -> list[dict[str, Any]]:
        """The log lines so far."""
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]

    def wait_for(self, message: str) -> dict[str, Any]:
        """The first log line with this message. Fails when the process ends before it or takes too long."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            for line in self.lines():
                if line["message"] == message:
                    return line
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.05)
        raise AssertionError(f"no line {message!r} in {self.log.read_text()}")

    def rss(self) -> int:
        """Bytes of memory of the process."""
        return psutil.Process(self.process.pid).memory_info().rss

    def request(self, path: str, body: dict[str, Any] | None = None, *, key: str = "") -> tuple[int, Any]:
        """Status and JSON (or text) of an answer."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}",
            data,
            {"content-type": "application/json", **({"authorization": f"Bearer {key}"} if key else {})},
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                status, text = answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            status, text = error.code, error.read().decode()
        return status, json.loads(text) if text.startswith(("{", "[")) else text

    def metric(self, name: str) -> float:
        """The value of one series, or of the only one of this name; 0 when it does not exist."""
        for line in self.request("/metrics")[1].splitlines():
            if line.startswith((f"{name} ", f"{name}{{")):
                return float(line.rpartition(" ")[2])
        return 0.0

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Ends the process and returns its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(60)


@contextlib.contextmanager
def server(
    directory: Path, *arguments: str, env: dict[str, str] | None = None, fault: str = ""
) -> Iterator[ServerProcess]:
    """Starts `tandem-serve` on a free port; ends it at the end, whatever happens. `fault` is Python that runs first."""
    log = directory / f"serve-{len(list(directory.glob('serve-*.log')))}.log"
    program = f"{fault}\nfrom tandem_serve.__main__ import main\nmain()"
    command = [sys.executable, "-c", program, "--port", "0", "--log-format", "json", *arguments]
    environment = {"OMP_NUM_THREADS": "1", **os.environ, **(env or {})}
    with log.open("wb") as stream:
        process = subprocess.Popen(command, stderr=stream, stdout=stream, env=environment)
    one = ServerProcess(process, log)
    try:
        yield one
    finally:
        one.stop(signal.SIGKILL)


def listening(one: ServerProcess) -> ServerProcess:
    """Waits until HTTP answers; the model may still be loading."""
    one.port = one.wait_for("listening")["port"]
    return one


def ready(one: ServerProcess) -> ServerProcess:
    """Waits until the model is loaded."""
    listening(one).wait_for("ready")
    return one
