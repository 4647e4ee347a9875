"""Python environments with packages that the project itself does not need, kept in this user's cache.

A folder is named by a hash of everything that decides what is in it, so that other pins make another one.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.cluster.binaries import Progress, cache_root, file_lock
from tests.cluster.errors import RigError, Unavailable

ROOT = Path(__file__).parents[3]
_UNREACHABLE = (
    "dns error",
    "connect error",
    "connection refused",
    "timed out",
    "failed to fetch",
    "error sending request",
)


def python_with(requirements: Path, progress: Progress) -> Path:
    """The interpreter of an environment with these pinned packages, made first when it is not there (a minute or two).

    Raises Unavailable when the package index cannot be reached or the cache cannot be written to, RigError when the
    environment cannot be made for another reason.
    """
    home = cache_root(os.environ) / "environments" / _key(requirements)
    python = home / "bin" / "python"
    if python.exists():
        return python
    try:
        home.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Unavailable(f"{home.parent} cannot be written to: {error.strerror}; set TANDEM_CACHE") from error
    with file_lock(home.parent / ".lock"):
        # Another process may have made it while this one waited for the lock.
        if not python.exists():
            _make(home, requirements, progress)
    return python


def _key(requirements: Path) -> str:
    digest = hashlib.sha256(f"{sys.version_info[:2]} {sys.platform}".encode())
    digest.update(requirements.read_bytes())
    return digest.hexdigest()[:16]


def _make(home: Path, requirements: Path, progress: Progress) -> None:
    progress(f"making the environment of {requirements.parent.name} (once; it stays in {home})")
    started = time.monotonic()
    for left_over in home.parent.glob(".making-*"):  # of a process that was killed: we hold the lock
        shutil.rmtree(left_over, ignore_errors=True)
    scratch = Path(tempfile.mkdtemp(dir=home.parent, prefix=".making-"))
    try:
        for command in _commands(requirements, str(scratch), str(scratch / "bin" / "python")):
            _run(command)
        # A rename within one file system is atomic: nobody ever finds half an environment under its name.
        scratch.rename(home)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    progress(f"made it in {time.monotonic() - started:.0f} s")


def _commands(requirements: Path, home: str, python: str) -> list[list[str]]:
    """With the uv that made the project's own environment or one on the path, else with pip."""
    wanted = ["--quiet", "-r", str(requirements)]
    found = sorted((ROOT / "build").glob("uv-*/bin/uv"))
    uv = str(found[-1]) if found else shutil.which("uv")
    if uv is None:
        return [[sys.executable, "-m", "venv", home], [python, "-m", "pip", "install", *wanted]]
    return [
        [uv, "venv", "--quiet", "--python", sys.executable, home],
        [uv, "pip", "install", "--compile-bytecode", "--python", python, *wanted],
    ]


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return
    if any(sign in done.stderr.lower() for sign in _UNREACHABLE):
        raise Unavailable(f"the package index cannot be reached: {done.stderr.strip().splitlines()[-1]}")
    raise RigError(f"{' '.join(command)} failed:\n{done.stderr[-4000:]}")
