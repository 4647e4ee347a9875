"""`tandem local up` as a process of its own: what it prints, how it ends, and that nothing is left, however it ends.

Workers are stubs (put in by podTemplate), the router is the real one.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from tandem.local.supervisor import MAX_GRACE_SECONDS
from tests.integration.local.conftest import PATIENCE_SECONDS, STUB

TANDEM = Path(sys.executable).with_name("tandem")
DISAGG = {"mode": "disagg", "roles": {"prefill": {}, "decode": {}}}


class Up:
    """A running `tandem local up`; keeps every process that it was seen to have started."""

    def __init__(self, file: Path, *arguments: str, scratch: Path, environment: Mapping[str, str]) -> None:
        self._errors = scratch / "stderr"
        self.scratch = scratch
        with self._errors.open("wb") as errors:
            self.process = subprocess.Popen(
                [TANDEM, "local", "up", "-f", file, *arguments],
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,
                env={**os.environ, "TMPDIR": str(scratch), **environment},
            )
        self._started: set[psutil.Process] = set()

    def until_address(self) -> str:
        assert self.process.stdout is not None
        readable, _, _ = select.select([self.process.stdout], [], [], PATIENCE_SECONDS)
        assert readable, self.errors
        line = self.process.stdout.readline()
        self.look()
        assert line, self.errors
        return line.strip()

    def until(self, text: str) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while text not in self.errors:
            assert time.monotonic() < deadline, self.errors
            time.sleep(0.02)
        self.look()

    def look(self) -> set[psutil.Process]:
        self._started |= set(psutil.Process(self.process.pid).children(recursive=True))
        return self._started

    def end(self, number: signal.Signals, *, group: bool = False) -> int:
        self.look()
        os.killpg(self.process.pid, number) if group else self.process.send_signal(number)
        return self.process.wait(PATIENCE_SECONDS)

    def left(self) -> list[psutil.Process]:
        """What still runs a moment after the end (the kernel needs one to deliver its signals)."""
        _, alive = psutil.wait_procs(self._started, timeout=30)
        return alive

    @property
    def errors(self) -> str:
        return self._errors.read_text()


@pytest.fixture
def start(tmp_path, stub) -> Iterator[Any]:
    running: list[Up] = []

    def begin(file: Path, *arguments: str) -> Up:
        scratch = tmp_path / f"up-{len(running)}"
        scratch.mkdir()
        running.append(Up(file, *arguments, scratch=scratch, environment={"STUB": str(STUB), "STATE": str(stub.state)}))
        return running[-1]

    yield begin
    for up in running:
        if up.process.poll() is None:
            up.process.kill()
            up.process.wait()
        left = up.left()
        for process in left:
            process.kill()
        assert left == []


def deployment(directory: Path, *arguments: str, **spec: Any) -> Path:
    """A file with a deployment whose workers are stubs, and beside it a directory `model` that looks like a model."""
    model = directory / "model"
    model.mkdir(exist_ok=True)
    (model / "config.json").write_text("{}")
    # Paths in the command would be taken for paths of the container, where /tmp is a volume.
    command = ["sh", "-c", 'exec python "$STUB" --state "$STATE" "$@"', "stub", *arguments]
    overlay = {"spec": {"containers": [{"name": "server", "command": command}]}}
    roles = spec.pop("roles", {"agg": {}})
    document = {
        "apiVersion": "tandem.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": "demo"},
        "spec": {
            "model": {"pvc": {"claimName": "models"}},
            "roles": {name: {**role, "podTemplate": overlay} for name, role in roles.items()},
            **spec,
        },
    }
    file = directory / "deployment.yaml"
    file.write_text(yaml.safe_dump(document))
    return file


def volume(directory: Path) -> tuple[str, str]:
    return "--volume", f"models={directory / 'model'}"


def test_it_prints_the_address_serves_through_the_router_and_ends_on_ctrl_c(start, stub, tmp_path):
    up = start(deployment(tmp_path, **DISAGG), *volume(tmp_path), "--port", "0")
    address = up.until_address()
    with urllib.request.urlopen(f"{address}/v1/models", timeout=10) as answer:
        assert answer.status == 200
    (file,) = up.scratch.glob("tandem-local-*/endpoints.json")
    endpoints = json.loads(file.read_text())["endpoints"]
    assert [(each["role"], each["ready"]) for each in endpoints] == [("prefill", True), ("decode", True)]
    assert len(up.look()) == 6  # three containers, each under an init of its own
    assert up.end(signal.SIGINT, group=True) == 130
    assert up.left() == []
    assert "Traceback" not in up.errors
    assert list(up.scratch.glob("tandem-local-*")) == []


def test_a_refused_hand_off_is_told_once_in_the_words_of_the_cluster(start, stub, tmp_path):
    up = start(deployment(tmp_path, **DISAGG), *volume(tmp_path), "--port", "0")
    address = up.until_address()
    stub.set("refuses")
    up.until("refuses KV of its prefill workers, protocol: they speak another version.")
    with urllib.request.urlopen(f"{address}/loading", timeout=60) as answer:
        (refusal,) = json.load(answer)["refused_handoffs"]
    assert f"warning: pod {refusal['name']} refuses" in up.errors
    assert "give both the same image" in up.errors
    assert up.end(signal.SIGINT, group=True) == 130
    assert up.errors.count("refuses KV") == 1


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_it_ends_on_other_signals_too(start, stub, tmp_path, number, code):
    up = start(deployment(tmp_path), *volume(tmp_path), "--port", "0")
    up.until_address()
    assert up.end(number) == code
    assert up.left() == []


def test_ctrl_c_before_it_is_ready_leaves_nothing(start, stub, tmp_path):
    stub.set("down")
    up = start(deployment(tmp_path, "--child"), *volume(tmp_path), "--port", "0")
    up.until("loading")
    assert up.end(signal.SIGINT, group=True) == 130
    assert up.left() == []


def test_not_even_sigkill_leaves_a_process(start, stub, tmp_path):
    up = start(deployment(tmp_path, "--child"), *volume(tmp_path), "--port", "0")
    up.until_address()
    assert len(up.look()) >= 5
    assert up.end(signal.SIGKILL) == -signal.SIGKILL
    assert list(up.scratch.glob("tandem-local-*"))
    assert up.left() == []


def test_a_second_ctrl_c_does_not_wait_for_a_worker_that_will_not_end(start, stub, tmp_path):
    up = start(deployment(tmp_path, "--ignore-sigterm"), *volume(tmp_path), "--port", "0")
    up.until_address()
    up.process.send_signal(signal.SIGINT)
    up.until("demo-router-0: stopped")
    began = time.monotonic()
    assert up.end(signal.SIGINT) == 130
    assert time.monotonic() - began < MAX_GRACE_SECONDS
    assert up.left() == []


def test_a_worker_that_dies_at_start_ends_it_soon_with_the_real_cause(start, stub, tmp_path):
    file = deployment(tmp_path, "--fail-first", "99", "--message", "error: weights do not match config.json")
    up = start(file, *volume(tmp_path), "--port", "0")
    assert up.process.wait(PATIENCE_SECONDS) == 1
    assert up.process.stdout.read() == ""
    assert "  error: weights do not match config.json\n" in up.errors
    last = up.errors.splitlines()[-1]
    assert last.startswith("error: demo-agg-")
    assert "ended before it was ready (exit code 3)" in last
    log = Path(last.rpartition(" ")[2].rstrip("."))
    assert "weights do not match" in log.read_text()


def test_a_worker_that_dies_later_is_started_again_and_served_again(start, stub, tmp_path):
    up = start(deployment(tmp_path), *volume(tmp_path), "--port", "0")
    address = up.until_address()
    stub.set("exit", "9")
    up.until("restarting: ended (exit code 9)")
    deadline = time.monotonic() + PATIENCE_SECONDS
    while len(stub.pids()) < 2 or not answers(f"{address}/v1/models"):
        assert time.monotonic() < deadline, up.errors
        time.sleep(0.05)
    assert up.end(signal.SIGINT) == 130


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


def asked(url: str, key: str) -> int:
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {key}"})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_api_keys_come_from_the_secret_and_may_change_while_it_runs(start, stub, tmp_path, monkeypatch):
    monkeypatch.setenv("CLIENTS", "sk-one\nsk-two")
    file = deployment(tmp_path, access={"apiKeysSecretRef": {"name": "clients", "key": "keys"}})
    up = start(file, *volume(tmp_path), "--secret", "clients/keys=CLIENTS", "--port", "0")
    models = up.until_address() + "/v1/models"
    assert [asked(models, key) for key in ("sk-one", "sk-two", "sk-three", "")] == [200, 200, 401, 401]
    (keys,) = up.scratch.glob("tandem-local-*/**/api-keys/api-keys")
    assert keys.stat().st_mode & 0o077 == 0
    keys.write_text("sk-three\n")
    deadline = time.monotonic() + PATIENCE_SECONDS
    while asked(models, "sk-three") != 200:
        assert time.monotonic() < deadline, up.errors
        time.sleep(0.1)
    assert asked(models, "sk-one") == 401
    written = "".join(log.read_text() for log in up.scratch.glob("tandem-local-*/logs/*")) + up.errors
    assert "sk-" not in written
    assert "sk-" not in " ".join(argument for process in up.look() for argument in process.cmdline())


def test_a_deployment_with_api_keys_and_none_given_is_refused(start, stub, tmp_path):
    file = deployment(tmp_path, access={"apiKeysSecretRef": {"name": "clients"}})
    said = refused(start(file, *volume(tmp_path), "--port", "0"))
    assert "spec.access.apiKeysSecretRef: there are no API keys here (got clients/api-keys)" in said
    assert "--secret clients/api-keys=CLIENTS_API_KEYS" in said


def refused(up: Up) -> str:
    assert up.process.wait(PATIENCE_SECONDS) == 1
    assert up.process.stdout.read() == ""
    assert list(up.scratch.glob("tandem-local-*")) == []
    assert "Traceback" not in up.errors
    assert "starting" not in up.errors
    return up.errors


def test_a_port_in_use_is_refused_before_anything_starts(start, stub, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = refused(start(deployment(tmp_path), *volume(tmp_path), "--port", str(port)))
    assert said.startswith(f"error: --port: another process listens on this port (got {port}).")
    assert not (stub.state / "starts").exists()


@pytest.mark.parametrize(
    ("prepare", "arguments", "path", "fix"),
    [
        (None, (), "deployment.yaml:8:18: spec.model.pvc.claimName", "--volume models=DIRECTORY"),
        (None, ("--volume", "models=/nowhere"), "--volume models", "Give the directory"),
        (None, ("--volume", "model=/"), "--volume model:", "Claims here: models"),
        ("no config", ("--volume", "models={model}"), "spec.model.pvc.path", "Hugging Face format"),
        (None, ("--volume", "models={model}", "--secret", "hf=X"), "--secret hf", "NAME/KEY=VARIABLE"),
        (None, ("--volume", "models={model}", "--secret", "hf/token=UNSET_VARIABLE"), "--secret hf/token", "export"),
    ],
)
def test_what_is_missing_is_refused_before_anything_starts(start, stub, tmp_path, prepare, arguments, path, fix):
    file = deployment(tmp_path)
    if prepare:
        (tmp_path / "model" / "config.json").unlink()
    said = refused(start(file, *(each.format(model=tmp_path / "model") for each in arguments), "--port", "0"))
    assert path in said
    assert fix in said
    assert not (stub.state / "starts").exists()
