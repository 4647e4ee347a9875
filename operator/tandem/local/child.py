"""The smallest init: starts one command; everything that came of it ends with it, or with the supervisor.

Run as a script of its own (`python -I -S child.py SUPERVISOR_PID COMMAND...`), with nothing but the standard library,
so that it starts in milliseconds. Like the first process of a container: when the command ends, what is left of its
descendants is killed; SIGTERM goes on to the command; SIGUSR1 kills all at once, and is what the kernel sends when
the supervisor is gone, however it went. Exits with the command's code, or 128 and the signal that ended it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
EXIT_NOT_STARTED = 127
KILL_ALL = signal.SIGUSR1
_HANDLED = {signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, KILL_ALL}


def main(supervisor: int, command: list[str]) -> int:
    """Runs `command` until it ends; returns the exit code."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _HANDLED)
    _control(PR_SET_PDEATHSIG, KILL_ALL)
    _control(PR_SET_CHILD_SUBREAPER, 1)
    if os.getppid() != supervisor:  # it ended before the kernel was told whom to watch
        return EXIT_NOT_STARTED
    pid = os.fork()
    if pid == 0:
        _become(command, parent=os.getppid())
    return _tend(pid)


def _become(command: list[str], *, parent: int) -> None:
    _control(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(EXIT_NOT_STARTED)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _HANDLED)
    try:
        os.execvp(command[0], command)  # noqa: S606 - no shell is wanted
    except OSError as error:
        os.write(2, f"{command[0]} cannot be started: {error.strerror}\n".encode())
        os._exit(EXIT_NOT_STARTED)


def _tend(pid: int) -> int:
    while True:
        received = signal.sigwait(_HANDLED)
        if received == KILL_ALL:
            _kill_descendants()
            return 128 + signal.SIGKILL
        if received == signal.SIGCHLD:
            code = _reap(pid)
            if code is not None:
                _kill_descendants()
                return code
        else:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)


def _reap(main_pid: int) -> int | None:
    """Collects all that ended; the code of the main process if it did."""
    code = None
    with suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            if ended[0] == main_pid:
                code = _exit_code(ended[1])
    return code


def _exit_code(status: int) -> int:
    return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def _kill_descendants() -> None:
    """Kills children until none is left: those of a killed one become ours, for we are the subreaper."""
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    with suppress(ChildProcessError):
        while True:
            if not children.exists():  # not Linux: the process group is the best there is
                os.killpg(os.getpgrp(), signal.SIGKILL)
            for child in children.read_text().split():
                with suppress(ProcessLookupError):
                    os.kill(int(child), signal.SIGKILL)
            os.waitpid(-1, 0)


def _control(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
