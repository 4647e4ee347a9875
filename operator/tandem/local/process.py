"""One running process of this machine, with everything it started and its output."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tandem.local import child

TAIL_LINES = 80
_CHUNK = 1 << 16
_MAX_LINE = 8192


@dataclass(frozen=True, slots=True)
class Exit:
    """How a process ended, as the kubelet numbers it: 128 + N after signal N."""

    code: int

    def __str__(self) -> str:
        if self.code > 128:
            with suppress(ValueError):
                return f"exit code {self.code}, {signal.Signals(self.code - 128).name}"
        return f"exit code {self.code}"


class Output:
    """Collects what a process writes: in a file, its last lines in memory, each line to `on_line`."""

    def __init__(self, path: Path, on_line: Callable[[str], None]) -> None:
        self._file = path.open("ab")
        self._on_line = on_line
        self._partial = b""
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)

    def feed(self, chunk: bytes) -> None:
        """Takes in what was written."""
        self._file.write(chunk)
        self._file.flush()
        *lines, self._partial = (self._partial + chunk).split(b"\n")
        if len(self._partial) > _MAX_LINE:
            lines.append(self._partial)
            self._partial = b""
        for line in lines:
            self._add(line)

    def close(self) -> None:
        """No more is coming."""
        if self._partial:
            self._add(self._partial)
            self._partial = b""
        self._file.close()

    def _add(self, line: bytes) -> None:
        text = line.decode(errors="replace").rstrip()
        self.tail.append(text)
        self._on_line(text)


class Process:
    """A command under its own small init (`tandem.local.child`). Start with `start_process`."""

    def __init__(self, handle: asyncio.subprocess.Process, output: Output) -> None:
        self._handle = handle
        self._output = output
        self._ended = asyncio.create_task(self._follow())

    @property
    def pid(self) -> int:
        """Process id of the init; the command is its child."""
        return self._handle.pid

    @property
    def tail(self) -> tuple[str, ...]:
        """The last lines it wrote."""
        return tuple(self._output.tail)

    async def wait(self) -> Exit:
        """How it ended, when it and all it started have ended."""
        return await asyncio.shield(self._ended)

    async def stop(self, grace: float) -> Exit:
        """Asks it to end, and kills it with all its descendants after `grace` seconds, or at once when cancelled."""
        try:
            self._signal(signal.SIGTERM)
            async with asyncio.timeout(grace):
                return await self.wait()
        except TimeoutError:
            self.kill()
            return await self.wait()
        except asyncio.CancelledError:
            self.kill()
            raise

    def kill(self) -> None:
        """Kills it and all its descendants."""
        self._signal(child.KILL_ALL)

    def _signal(self, number: signal.Signals) -> None:
        if not self._ended.done():
            with suppress(ProcessLookupError):
                self._handle.send_signal(number)

    async def _follow(self) -> Exit:
        stream = self._handle.stdout
        if stream is not None:
            while chunk := await stream.read(_CHUNK):
                self._output.feed(chunk)
        code = await self._handle.wait()
        self._output.close()
        return Exit(code if code >= 0 else 128 - code)


async def start_process(
    argv: Sequence[str],
    *,
    environment: Mapping[str, str],
    directory: Path,
    log: Path,
    on_line: Callable[[str], None],
) -> Process:
    """Starts `argv` in a session of its own, so that a Ctrl-C in the terminal reaches only the supervisor.

    Must be called from a thread that lives as long as the process may: the kernel ends it with that thread.
    """
    handle = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-S", child.__file__, str(os.getpid()), *argv),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=dict(environment),
        cwd=directory,
        start_new_session=True,
    )
    return Process(handle, Output(log, on_line))
