"""Stubs under a real supervisor, and the check that no process is left."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tandem.local.machine import free_port
from tandem.local.plan import make_plan
from tandem.local.policy import RestartPolicy
from tandem.local.spec import LocalPlan
from tandem.local.supervisor import Supervisor
from tandem.local.unit import UnitStatus
from tests.unit.local.objects import machine, worker_deployment

STUB = Path(__file__).with_name("stub.py")
PATIENCE_SECONDS = 120  # the machine may be busy with other tests


class Stub:
    """A stub's state directory, its plan and what was seen of it."""

    def __init__(self, directory: Path) -> None:
        self.state = directory / "state"
        self.state.mkdir()
        self.run = directory / "run"
        self.run.mkdir()
        self.seen: list[UnitStatus] = []
        self.lines: list[str] = []
        self.quick_seconds = float(PATIENCE_SECONDS)

    def changed(self, status: UnitStatus) -> None:
        self.seen.append(status)

    def line(self, unit: str, text: str) -> None:
        self.lines.append(text)

    def plan(self, *arguments: str, **container: Any) -> LocalPlan:
        deployment = worker_deployment(
            **{
                "command": [sys.executable, str(STUB)],
                "args": ["--port", "8000", "--state", str(self.state), *arguments],
                "readinessProbe": {
                    "httpGet": {"path": "/health", "port": "http"},
                    "periodSeconds": 0.05,
                    "failureThreshold": 2,
                },
                **container,
            }
        )
        here = machine(self.run, free_port=free_port, find_program=lambda name: name)
        return make_plan([deployment], machine=here)

    def supervisor(self, plan: LocalPlan) -> Supervisor:
        policy = RestartPolicy(first_pause=0.01, later_starts=3, quick_seconds=self.quick_seconds)
        return Supervisor(plan, logs=self.run / "logs", observer=self, policy=policy)

    def pids(self, name: str = "starts") -> list[int]:
        return [int(line) for line in (self.state / name).read_text().split()]

    def set(self, name: str, text: str = "") -> None:
        scratch = self.state / f"{name}.new"
        scratch.write_text(text)
        scratch.rename(self.state / name)

    def clear(self, name: str) -> None:
        (self.state / name).unlink()

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not holds():  # noqa: ASYNC110 - what is waited for happens in other processes
                await asyncio.sleep(0.02)


@pytest.fixture
def stub(tmp_path) -> Iterator[Stub]:
    made = Stub(tmp_path)
    yield made
    names = [name for name in ("starts", "children") if (made.state / name).exists()]
    left = [pid for name in names for pid in made.pids(name) if psutil.pid_exists(pid)]
    for pid in left:
        psutil.Process(pid).kill()
    assert left == []
