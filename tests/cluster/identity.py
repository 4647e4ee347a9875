"""Which process exactly: a pid alone may be another process by the time somebody signals it."""

from __future__ import annotations

import os
import select
import signal
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ProcessIdentity:
    """A process, told apart from a later one with the same pid: by its start time and by the boot it belongs to.

    `started` is in clock ticks since boot, as the kernel reports it.
    """

    pid: int
    started: int
    boot: str

    @classmethod
    def of(cls, pid: int) -> ProcessIdentity:
        """The identity of a process, also of a child that has ended and was not waited for yet.

        Raises ProcessLookupError when there is none.
        """
        found = _state_and_start(pid)
        if found is None:
            raise ProcessLookupError(pid)
        return cls(pid=pid, started=found[1], boot=_boot_id())

    def is_alive(self) -> bool:
        """Whether this very process still runs. A zombie does not."""
        found = _state_and_start(self.pid)
        if found is None:
            return False
        state, started = found
        return state not in "ZX" and started == self.started and _boot_id() == self.boot

    def send(self, signal_number: signal.Signals) -> bool:
        """Signals this very process; False when it is gone. No other process is ever signalled in its place."""
        handle = self._open()
        if handle is None:
            return False
        try:
            signal.pidfd_send_signal(handle, signal_number)
        except ProcessLookupError:
            return False
        finally:
            os.close(handle)
        return True

    def wait(self, *, timeout: float) -> bool:
        """Waits up to `timeout` seconds for the process to end; whether it has. It need not be a child."""
        handle = self._open()
        if handle is None:
            return True
        try:
            readable, _, _ = select.select([handle], [], [], timeout)
        finally:
            os.close(handle)
        return bool(readable)

    def _open(self) -> int | None:
        try:
            handle = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return None
        # Checked after opening: from here on the handle stands for one process, whoever gets the pid next.
        if self.is_alive():
            return handle
        os.close(handle)
        return None


def end_processes(identities: list[ProcessIdentity], *, grace: float) -> list[ProcessIdentity]:
    """Asks processes to end, kills those still there after `grace` seconds; returns survivors (usually none)."""
    if grace > 0:
        asked = [identity for identity in identities if identity.send(signal.SIGTERM)]
        deadline = time.monotonic() + grace
        for identity in asked:
            identity.wait(timeout=max(0.0, deadline - time.monotonic()))
    killed = [identity for identity in identities if identity.send(signal.SIGKILL)]
    return [identity for identity in killed if not identity.wait(timeout=10)]


def _state_and_start(pid: int) -> tuple[str, int] | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The second field is the command in parentheses and may itself hold spaces and parentheses.
    fields = stat.rpartition(")")[2].split()
    return fields[0], int(fields[19])


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
