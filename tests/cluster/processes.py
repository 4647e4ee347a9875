"""Starts the rig's programs so that none outlives the rig, and waits for them to be ready."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.errors import RigError, Unavailable
from tests.cluster.identity import ProcessIdentity, end_processes
from tests.cluster.rundir import RunDirectory

POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Process:
    """A running program of the rig and the file that takes its output."""

    name: str
    identity: ProcessIdentity
    log: Path
    handle: subprocess.Popen[bytes]

    def log_tail(self, *, lines: int = 30) -> str:
        """The last lines of its output, for error messages."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def stop(self, *, grace: float) -> None:
        """Ends it: asked first when `grace` (seconds) is above 0, then killed. Returns when it is gone."""
        end_processes([self.identity], grace=grace)
        self.handle.wait(timeout=10)


class Processes:
    """The programs of one rig."""

    def __init__(self, directory: RunDirectory) -> None:
        self._directory = directory
        self._running: dict[str, Process] = {}
        self._adopted: list[ProcessIdentity] = []
        # The kernel kills a child when the *thread* that started it ends. Tests call from short-lived threads, so
        # one thread that lives as long as the rig starts everything.
        self._starter = ThreadPoolExecutor(max_workers=1, thread_name_prefix="cluster-starter")

    def start(self, name: str, command: Sequence[str], *, environment: Mapping[str, str] | None = None) -> Process:
        """Starts a program under a name (a later one of that name takes its place) with its output in a log file."""
        if shutil.which("setpriv") is None:
            raise Unavailable(
                "setpriv is missing (Debian package util-linux); without it programs could be left behind"
            )
        log = self._directory.subdirectory("logs") / f"{name}.log"
        process = self._starter.submit(_spawn, name, command, log, environment).result()
        self._directory.record(process.identity)
        self._running[name] = process
        return process

    def adopt(self, identity: ProcessIdentity) -> None:
        """Takes responsibility for a process that one of the programs started: it ends with the rig."""
        self._directory.record(identity)
        self._adopted.append(identity)

    def get(self, name: str) -> Process:
        """The program last started under that name."""
        return self._running[name]

    def stop(self, name: str, *, grace: float) -> None:
        """Ends one program (see Process.stop)."""
        self._running.pop(name).stop(grace=grace)

    def stop_all(self) -> None:
        """Kills all that still run and gives up the starter thread. What they kept is thrown away anyway."""
        started = [process.identity for process in self._running.values()]
        end_processes([*started, *self._adopted], grace=0)
        for process in self._running.values():
            process.handle.wait(timeout=10)
        self._running.clear()
        self._starter.shutdown()


def _spawn(name: str, command: Sequence[str], log: Path, environment: Mapping[str, str] | None) -> Process:
    with log.open("ab") as output:
        handle = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "--", *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            # Its own group: Ctrl-C in a terminal goes to the tests, which then end the rig in order.
            process_group=0,
        )
    return Process(name=name, identity=ProcessIdentity.of(handle.pid), log=log, handle=handle)


def wait_until(is_ready: Callable[[], bool], *, what: str, timeout: float, process: Process | None = None) -> None:
    """Polls until `is_ready()`; OSError counts as not yet.

    Raises RigError after `timeout` seconds, or at once when `process` ends, with the end of its log.
    """
    deadline = time.monotonic() + timeout
    while True:
        try:
            if is_ready():
                return
        except OSError:
            pass
        tail = f"\n{process.log_tail()}" if process else ""
        if process is not None and process.handle.poll() is not None:
            raise RigError(f"{process.name} ended with {_exit_text(process.handle.returncode)} before {what}{tail}")
        if time.monotonic() > deadline:
            raise RigError(f"{what}: not after {timeout:.0f} s{tail}")
        time.sleep(POLL_SECONDS)


def _exit_text(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
