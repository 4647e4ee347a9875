"""Python environments with packages that the project itself does not need: made once, kept in the user's cache.

An environment sees this one's packages, too, and adds what they lack: other servers to compare with, other clients.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from demo.model import cache_directory

CONSTRAINTS = Path(__file__).parents[1] / "constraints.txt"
INSTALL_SECONDS = 600.0


class NoEnvironmentError(Exception):
    """It could not be made, with the reason: often there is no package index."""


def environment(*requirements: str, parent: Path | None = None) -> Path:
    """The Python interpreter of an environment with pinned `requirements`, such as "accelerate==1.2.3".

    Safe to call from several processes at once. Raises `NoEnvironmentError`.
    """
    parent = parent or cache_directory()
    parent.mkdir(parents=True, exist_ok=True)
    directory = parent / f"environment-{_digest(requirements)}"
    ready = directory / ".ready"
    with (parent / ".environments.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not ready.exists():
            shutil.rmtree(directory, ignore_errors=True)  # of somebody who was stopped: we hold the lock
            _make(directory, requirements)
            ready.touch()
    return directory / "bin" / "python"


def _digest(requirements: tuple[str, ...]) -> str:
    parts = (sys.version, _packages(), CONSTRAINTS.read_text(), *sorted(requirements))
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


def _packages() -> str:
    return sysconfig.get_paths()["purelib"]


def _make(directory: Path, requirements: tuple[str, ...]) -> None:
    base = getattr(sys, "_base_executable", sys.executable)
    _run(base, "-m", "venv", str(directory))
    (lib,) = (directory / "lib").glob("python*/site-packages")
    (lib / "project.pth").write_text(f"import site; site.addsitedir({_packages()!r})\n")
    pip = ["-m", "pip", "--quiet", "--disable-pip-version-check", "install", "-c", str(CONSTRAINTS)]
    _run(str(directory / "bin" / "python"), *pip, *requirements)


def _run(*command: str) -> None:
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=INSTALL_SECONDS
        )
    except subprocess.TimeoutExpired as error:
        raise NoEnvironmentError(f"{' '.join(command)}: not done after {INSTALL_SECONDS:.0f} s") from error
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise NoEnvironmentError(lines[-1] if lines else f"exit status {done.returncode}")
