"""Keeps one container's process running: starts it, probes it, restarts it, and gives up when that leads nowhere."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from tandem.local.policy import RestartPolicy
from tandem.local.probe import Answer, Count, Loading, Prober, hastened
from tandem.local.process import Exit, Process, start_process
from tandem.local.spec import ProbeSpec, UnitSpec

# Until it is ready, a process is asked this often at least.
EAGER_PERIOD = 0.25


class Phase(StrEnum):
    """Where a unit stands."""

    WAITING = "waiting"
    STARTING = "starting"
    READY = "ready"
    NOT_READY = "not ready"
    RESTARTING = "restarting"
    FAILED = "failed"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """Why a process ended or had to be ended; `tail` are its last lines."""

    unit: str
    reason: str
    exit: Exit | None
    attempts: int
    tail: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitStatus:
    """What is known of a unit now. `trouble` is why it is not ready, in words."""

    unit: str
    pod: str
    phase: Phase = Phase.WAITING
    restarts: int = 0
    loading: Loading | None = None
    trouble: str = ""
    cause: Cause | None = None

    @property
    def ready(self) -> bool:
        """Whether it serves."""
        return self.phase is Phase.READY


@dataclass(frozen=True, slots=True)
class _ProbeFailed:
    """A probe reached its threshold, so the process has to be replaced."""

    probe: ProbeSpec
    detail: str

    def __str__(self) -> str:
        within = f" for {self.probe.period * self.probe.failure_threshold:g} s" if self.probe.kind == "startup" else ""
        return f"its {self.probe.kind} probe failed{within}: {self.detail}"


class Unit:
    """Runs one unit; `changed` is called after every change of `status`."""

    def __init__(
        self,
        spec: UnitSpec,
        *,
        prober: Prober,
        policy: RestartPolicy,
        log: Path,
        changed: Callable[[UnitStatus], None],
        on_line: Callable[[str], None],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.spec = spec
        self.log = log
        self.status = UnitStatus(unit=spec.name, pod=spec.pod)
        self.process: Process | None = None
        self._prober = prober
        self._policy = policy
        self._changed = changed
        self._on_line = on_line
        self._sleep = sleep
        self._clock = clock
        self._was_ready = False
        self._became_ready = False

    async def run(self) -> Cause:
        """Keeps the process running; returns why that was given up. Cancelled, it leaves the process as it is."""
        failures = 0
        while True:
            began = self._clock()
            cause = await self._run_once()
            failures = 1 if self._became_ready else failures + 1
            if self._policy.gives_up(failures, was_ready=self._was_ready, seconds=self._clock() - began):
                cause = replace(cause, attempts=failures)
                self._set(phase=Phase.FAILED, cause=cause, trouble=cause.reason, loading=None)
                return cause
            self._set(phase=Phase.RESTARTING, cause=cause, trouble=cause.reason, loading=None)
            await self._sleep(self._policy.pause(failures))
            self._set(restarts=self.status.restarts + 1)

    def stopped(self) -> None:
        """The supervisor has ended the process."""
        self._set(phase=Phase.STOPPED, loading=None)

    async def _run_once(self) -> Cause:
        """One life of the process: why it ended, or had to."""
        self._became_ready = False
        self._set(phase=Phase.STARTING, trouble="", loading=None)
        process = self.process = await start_process(
            self.spec.argv,
            environment=self.spec.environment,
            directory=self.spec.directory,
            log=self.log,
            on_line=self._on_line,
        )
        ended = asyncio.create_task(process.wait())
        probing = asyncio.create_task(self._probe())
        try:
            await asyncio.wait((ended, probing), return_when=asyncio.FIRST_COMPLETED)
        finally:
            probing.cancel()
            ended.cancel()
        if probing.done() and not probing.cancelled() and not ended.done():
            failed = probing.result()
            self._set(phase=Phase.NOT_READY, trouble=str(failed))
            await process.stop(self.spec.grace)
            return self._cause(str(failed), None, process)
        exit_ = await process.wait()
        when = "" if self._became_ready else " before it was ready"
        return self._cause(f"ended{when} ({exit_})", exit_, process)

    def _cause(self, reason: str, exit_: Exit | None, process: Process) -> Cause:
        return Cause(unit=self.spec.name, reason=reason, exit=exit_, attempts=1, tail=process.tail)

    async def _probe(self) -> _ProbeFailed:
        """Asks all probes in the kubelet's order; ends only when the process has to be replaced."""
        startup = self.spec.probe("startup")
        if startup and (failed := await self._until_started(hastened(startup, period=EAGER_PERIOD))):
            return failed
        readiness = asyncio.create_task(self._follow_readiness())
        try:
            return await self._until_dead(self.spec.probe("liveness"))
        finally:
            readiness.cancel()

    async def _until_started(self, probe: ProbeSpec) -> _ProbeFailed | None:
        count = Count(probe)
        await self._sleep(probe.initial_delay)
        while True:
            answer = await self._prober.ask(probe)
            verdict = count.note(answer.passed)
            if verdict == "passed":
                return None
            if verdict == "failed":
                return _ProbeFailed(probe, answer.detail)
            self._note(answer)
            await self._sleep(probe.period)

    async def _until_dead(self, probe: ProbeSpec | None) -> _ProbeFailed:
        if probe is None:
            never: asyncio.Future[_ProbeFailed] = asyncio.get_running_loop().create_future()
            return await never
        count = Count(probe)
        await self._sleep(probe.initial_delay)
        while True:
            answer = await self._prober.ask(probe)
            if count.note(answer.passed) == "failed":
                return _ProbeFailed(probe, answer.detail)
            await self._sleep(probe.period)

    async def _follow_readiness(self) -> None:
        probe = self.spec.probe("readiness")
        if probe is None:
            self._set_ready()
            await asyncio.Event().wait()
            return
        count = Count(probe)
        await self._sleep(probe.initial_delay)
        while True:
            answer = await self._prober.ask(probe)
            verdict = count.note(answer.passed)
            if verdict == "passed" and not self.status.ready:
                self._set_ready()
            elif verdict == "failed" and self.status.ready:
                self._set(phase=Phase.NOT_READY, trouble=answer.detail)
            elif not self.status.ready:
                self._note(answer)
            await self._sleep(probe.period if self.status.ready else min(probe.period, EAGER_PERIOD))

    def _set_ready(self) -> None:
        self._was_ready = self._became_ready = True
        self._set(phase=Phase.READY, trouble="", loading=None)

    def _note(self, answer: Answer) -> None:
        self._set(trouble=answer.detail, loading=answer.loading or self.status.loading)

    def _set(self, **changes: object) -> None:
        status = replace(self.status, **changes)  # type: ignore[arg-type]
        if status != self.status:
            self.status = status
            self._changed(status)
