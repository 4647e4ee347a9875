"""The operator as a process of its own, as a container would run it: started, killed, looked at from outside."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.cluster.ports import free_port

ROOT = Path(__file__).parents[3]
START_SECONDS = 60.0

_PROGRAM = """
import json, pathlib, sys
from tandem.controller.run import run
from tandem.controller.settings import LeaderElection, OperatorSettings
from tandem.kube.lease import LeaseTimes
given = json.loads(sys.argv[1])
lease = given.pop("lease", None)
if lease is not None:
    lease["times"] = LeaseTimes(**lease.pop("times", {}))
    given["leader_election"] = LeaderElection(**lease)
namespaces = given.pop("namespaces", None)
kubeconfig = pathlib.Path(given.pop("kubeconfig"))
run(OperatorSettings(kubeconfig=kubeconfig, namespaces=tuple(namespaces) if namespaces else None, **given))
"""


@dataclass
class OperatorProcess:
    """One operator process. `settings` are those of OperatorSettings; `lease` those of LeaderElection."""

    kubeconfig: Path
    log: Path
    namespaces: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    lease: dict[str, Any] | None = None

    def start(self, *, wait: bool = True) -> OperatorProcess:
        """Starts it; with `wait`, returns when it is ready."""
        self.port = free_port()
        given = {
            "kubeconfig": str(self.kubeconfig),
            "namespaces": list(self.namespaces),
            "health_host": "127.0.0.1",
            "health_port": self.port,
            **self.settings,
            **({"lease": self.lease} if self.lease else {}),
        }
        with self.log.open("ab") as log:
            self.handle = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM, json.dumps(given)], cwd=ROOT, stdout=log, stderr=log
            )
        if wait:
            self.wait_for("leading")
        return self

    def wait_for(self, state: str, timeout: float = START_SECONDS) -> None:
        """Returns when /readyz says `state` (leading, standing by, or part of a reason for not being ready)."""
        deadline = time.monotonic() + timeout
        while state not in (said := self.readiness()):
            assert self.handle.poll() is None, f"the operator has ended:\n{self.log_tail()}"
            assert time.monotonic() < deadline, f"{said!r} instead of {state!r} after {timeout} s:\n{self.log_tail()}"
            time.sleep(0.02)

    def readiness(self) -> str:
        """What /readyz says; empty when there is no answer yet."""
        try:
            return self.http("/readyz")
        except urllib.error.HTTPError as error:
            return error.read().decode()
        except OSError:
            return ""

    def http(self, path: str) -> str:
        """The text served at `path` of the health port."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as response:
            return str(response.read().decode())

    def kill(self) -> None:
        """Ends it as a power cut would."""
        os.kill(self.handle.pid, signal.SIGKILL)
        self.handle.wait(timeout=10)

    def freeze(self) -> None:
        """Stops its time, as sleep of the machine would."""
        os.kill(self.handle.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Lets its time go on."""
        os.kill(self.handle.pid, signal.SIGCONT)

    def stop(self, timeout: float = 20) -> int:
        """Asks it to end; returns its exit status."""
        if self.handle.poll() is None:
            os.kill(self.handle.pid, signal.SIGTERM)
        return self.handle.wait(timeout=timeout)

    def usage(self) -> tuple[float, float]:
        """CPU seconds used so far, and the present memory in MB."""
        process = psutil.Process(self.handle.pid)
        times = process.cpu_times()
        return times.user + times.system, process.memory_info().rss / 1e6

    def peak_mb(self) -> float:
        """The most memory that it ever had, in MB."""
        status = Path(f"/proc/{self.handle.pid}/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1000

    def log_tail(self, lines: int = 40) -> str:
        """The last lines that it logged."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
