"""Runs a whole plan: all its units, the list of endpoints, and an end that leaves nothing behind."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Protocol

from tandem.local.endpoints import EndpointsFile
from tandem.local.policy import RestartPolicy
from tandem.local.probe import HttpProber
from tandem.local.spec import LocalPlan
from tandem.local.unit import Cause, Unit, UnitStatus

# Whoever stops a deployment on their own machine does not wait as long as a node would.
MAX_GRACE_SECONDS = 10.0


class UnitFailed(Exception):
    """A unit was given up; `cause` tells why, and all it wrote is in `log`."""

    def __init__(self, cause: Cause, log: Path) -> None:
        super().__init__(f"{cause.unit}: {cause.reason}")
        self.cause = cause
        self.log = log


class Observer(Protocol):
    """Is told what happens, for people to see."""

    def changed(self, status: UnitStatus) -> None:
        """A unit's status is another one."""

    def line(self, unit: str, text: str) -> None:
        """A unit wrote a line."""


class Supervisor:
    """An asynchronous context manager: entering starts every process, leaving ends them all."""

    def __init__(self, plan: LocalPlan, *, logs: Path, observer: Observer, policy: RestartPolicy | None = None) -> None:
        self.plan = plan
        self._logs = logs
        self._observer = observer
        self._policy = policy or RestartPolicy()
        self._units: list[Unit] = []
        self._tasks: list[asyncio.Task[Cause]] = []
        self._changed = asyncio.Event()
        self._endpoints = EndpointsFile(plan.endpoints_file, plan.workers)
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Supervisor:
        prepare(self.plan)
        self._logs.mkdir(parents=True, exist_ok=True)
        prober = await self._stack.enter_async_context(HttpProber())
        for pod in self.plan.pods:
            for spec in pod.units:
                unit = Unit(
                    spec,
                    prober=prober,
                    policy=self._policy,
                    log=self._logs / f"{spec.pod}.{spec.container}.log",
                    changed=self._on_change,
                    on_line=self._reader(spec.name),
                )
                self._units.append(unit)
        self._endpoints.write(ready=())
        self._tasks = [asyncio.create_task(unit.run()) for unit in self._units]
        for task in self._tasks:
            task.add_done_callback(lambda _: self._changed.set())
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            await self._stop()
        finally:
            await self._stack.aclose()

    @property
    def statuses(self) -> tuple[UnitStatus, ...]:
        """All units, in the order of the plan."""
        return tuple(unit.status for unit in self._units)

    @property
    def ready_pods(self) -> frozenset[str]:
        """Names of the pods whose every unit is ready."""
        waiting = {unit.spec.pod for unit in self._units if not unit.status.ready}
        return frozenset(pod.name for pod in self.plan.pods) - waiting

    async def until_ready(self) -> None:
        """Returns when every pod is ready; raises `UnitFailed` when one never will be."""
        while len(self.ready_pods) < len(self.plan.pods):
            self._raise_failure()
            self._changed.clear()
            await self._changed.wait()

    async def until_failed(self) -> None:
        """Raises `UnitFailed` when a unit is given up; never returns."""
        while True:
            self._raise_failure()
            self._changed.clear()
            await self._changed.wait()

    def _raise_failure(self) -> None:
        for unit, task in zip(self._units, self._tasks, strict=True):
            if task.done():
                raise UnitFailed(task.result(), unit.log)

    def _on_change(self, status: UnitStatus) -> None:
        self._endpoints.write(ready=self.ready_pods)
        self._observer.changed(status)
        self._changed.set()

    def _reader(self, unit: str) -> Callable[[str], None]:
        return lambda text: self._observer.line(unit, text)

    async def _stop(self) -> None:
        """Ends everything; at once when this is cancelled itself (a second Ctrl-C)."""
        for task in self._tasks:
            task.cancel()
        try:
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await asyncio.gather(*(self._end(unit) for unit in self._units))
        except asyncio.CancelledError:
            for unit in self._units:
                if unit.process is not None:
                    unit.process.kill()
            await asyncio.gather(*(unit.process.wait() for unit in self._units if unit.process is not None))
            raise

    async def _end(self, unit: Unit) -> None:
        if unit.process is not None:
            await unit.process.stop(min(unit.spec.grace, MAX_GRACE_SECONDS))
        unit.stopped()


def prepare(plan: LocalPlan) -> None:
    """Makes the directories and writes the files that the pods mount."""
    for directory in plan.directories:
        directory.mkdir(parents=True, exist_ok=True)
    for file in plan.files:
        file.path.parent.mkdir(parents=True, exist_ok=True)
        file.path.touch(mode=file.mode)
        file.path.write_bytes(file.content)
