"""Real `tandem router` processes on loopback, in front of workers that a test names."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

START_SECONDS = 120
TANDEM = Path(sys.executable).with_name("tandem")


@dataclass(frozen=True)
class RouterProcess:
    """One process; what it writes goes to a file."""

    url: str
    log: Path

    def lines(self) -> list[dict[str, object]]:
        """The log lines so far."""
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]


@contextlib.contextmanager
def router(
    directory: Path, workers: Mapping[str, int], *arguments: str, env: Mapping[str, str] | None = None
) -> Iterator[RouterProcess]:
    """Starts one over `workers`, ports by names such as `decode` or `decode-1`, on a free port; ends it at the end,
    whatever happens.
    """
    endpoints = [
        {
            "name": name,
            "address": "127.0.0.1",
            "port": port,
            "role": name.partition("-")[0],
            "revision": "r",
            "ready": True,
        }
        for name, port in workers.items()
    ]
    file = directory / "endpoints.json"
    file.write_text(json.dumps({"endpoints": endpoints}))
    mode = "agg" if "agg" in workers else "disagg"
    command = [TANDEM, "router", "--deployment", "d", "--backend", "torch", "--mode", mode, "--port", "0"]
    command += ["--host", "127.0.0.1", "--served-model-name", "tiny", "--endpoints-file", file, *arguments]
    log = directory / "router.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream, env={**os.environ, **(env or {})})
    try:
        one = RouterProcess(_url(process, log), log)
        _await_workers(one)
        yield one
    finally:
        process.kill()
        process.wait()


def _await_workers(one: RouterProcess) -> None:
    """The router listens before it has read its list."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        with contextlib.suppress(urllib.error.HTTPError), urllib.request.urlopen(f"{one.url}/readyz", timeout=30):
            return
        assert time.monotonic() < deadline, one.log.read_text()
        time.sleep(0.05)


def _url(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        for line in log.read_text().splitlines():
            if "listens on" in line:
                return "http://" + str(json.loads(line)["message"]).rpartition(" ")[2]
        assert process.poll() is None, log.read_text()
        time.sleep(0.05)
    raise AssertionError(log.read_text())
