"""Python environments with packages that the project itself does not need, kept in this user's cache: clients to test
with, other servers to compare with.

A folder is named by a hash of everything that decides what is in it, so that other pins make another one.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.cluster.binaries import Progress, cache_root, file_lock
from tests.cluster.errors import RigError, Unavailable

ROOT = Path(__file__).parents[1]
CONSTRAINTS = ROOT / "constraints.txt"
_UNREACHABLE = (
    "dns error",
    "connect error",
    "connection refused",
    "timed out",
    "failed to fetch",
    "error sending request",
)


def python_with(requirements: Sequence[str], progress: Progress, *, beside_project: bool = False) -> Path:
    """The interpreter of an environment with packages that are pinned as in "accelerate==1.2.3", made first when it is
    not there (a minute or two). `beside_project`: it sees the project's own packages too and adds what they lack.

    Raises Unavailable when the package index cannot be reached or the cache cannot be written to, RigError when the
    environment cannot be made for another reason.
    """
    project = sysconfig.get_paths()["purelib"] if beside_project else ""
    home = cache_root(os.environ) / "environments" / _key(requirements, project)
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
            _make(home, requirements, project, progress)
    return python


def _key(requirements: Sequence[str], project: str) -> str:
    parts = [f"{sys.version_info[:2]} {sys.platform}", *requirements]
    if project:
        parts += [project, CONSTRAINTS.read_text()]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _make(home: Path, requirements: Sequence[str], project: str, progress: Progress) -> None:
    progress(f"making an environment of {len(requirements)} packages (once; it stays in {home})")
    started = time.monotonic()
    for left_over in home.parent.glob(".making-*"):  # of a process that was killed: we hold the lock
        shutil.rmtree(left_over, ignore_errors=True)
    scratch = Path(tempfile.mkdtemp(dir=home.parent, prefix=".making-"))
    try:
        create, install = _commands(requirements, str(scratch), constrained=bool(project))
        _run(create)
        if project:
            (packages,) = (scratch / "lib").glob("python*/site-packages")
            (packages / "project.pth").write_text(f"import site; site.addsitedir({project!r})\n")
        _run(install)
        # A rename within one file system is atomic: nobody ever finds half an environment under its name.
        scratch.rename(home)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    progress(f"made it in {time.monotonic() - started:.0f} s")


def _commands(requirements: Sequence[str], home: str, *, constrained: bool) -> tuple[list[str], list[str]]:
    """What creates it and what fills it: with uv (the one that made the project's own environment, or one on the
    path), else with pip. What must fit to the project's own packages takes pip, which sees that they are there."""
    python = str(Path(home) / "bin" / "python")
    found = sorted((ROOT / "build").glob("uv-*/bin/uv"))
    uv = str(found[-1]) if found else shutil.which("uv")
    if constrained:
        pip = [python, "-m", "pip", "--quiet", "--disable-pip-version-check", "install", "-c", str(CONSTRAINTS)]
        return [getattr(sys, "_base_executable", sys.executable), "-m", "venv", home], [*pip, *requirements]
    if uv is None:
        return [sys.executable, "-m", "venv", home], [python, "-m", "pip", "install", "--quiet", *requirements]
    return (
        [uv, "venv", "--quiet", "--python", sys.executable, home],
        [uv, "pip", "install", "--compile-bytecode", "--quiet", "--python", python, *requirements],
    )


def _run(command: list[str]) -> None:
    variables = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return
    if any(sign in done.stderr.lower() for sign in _UNREACHABLE):
        raise Unavailable(f"the package index cannot be reached: {done.stderr.strip().splitlines()[-1]}")
    raise RigError(f"{' '.join(command)} failed:\n{done.stderr[-4000:]}")
