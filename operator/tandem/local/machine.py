"""What the plan needs to know of this machine and may not ask for itself."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tandem.local.spec import LOOPBACK


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Facts and means of this machine.

    `directory` is the run directory, `port` the one for clients. `volumes` are directories by claim name, `secrets`
    values by (Secret, key), `find_program` gives the path of a program, `find_gpus` the names by which CUDA knows
    the GPUs that may be used, `free_port` a port that nobody uses.
    """

    directory: Path
    port: int
    volumes: Mapping[str, Path]
    secrets: Mapping[tuple[str, str], str]
    environment: Mapping[str, str]
    cpus: int
    host_name: str
    find_program: Callable[[str], str | None]
    find_gpus: Callable[[], tuple[str, ...]]
    free_port: Callable[[], int]


def this_machine(
    *, directory: Path, port: int, volumes: Mapping[str, Path], secrets: Mapping[tuple[str, str], str]
) -> Machine:
    """The machine that this process runs on, with its environment and the programs of its virtual environment."""
    programs = str(Path(sys.executable).parent)
    path = os.pathsep.join((programs, os.environ.get("PATH", os.defpath)))
    return Machine(
        directory=directory,
        port=port,
        volumes=volumes,
        secrets=secrets,
        environment={**os.environ, "PATH": path},
        cpus=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        host_name=socket.gethostname(),
        find_program=lambda name: shutil.which(name, path=path),
        find_gpus=_visible_gpus,
        free_port=_PortFinder(),
    )


def _visible_gpus() -> tuple[str, ...]:
    """The GPUs that this shell may use: CUDA_VISIBLE_DEVICES, else all that the driver lists."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return tuple(name.strip() for name in chosen.split(",") if name.strip() not in ("", "-1"))
    if shutil.which("nvidia-smi") is None:
        return ()
    listed = subprocess.run(["nvidia-smi", "-L"], check=False, capture_output=True, text=True, timeout=30)
    count = sum(line.startswith("GPU ") for line in listed.stdout.splitlines())
    return tuple(str(number) for number in range(count))


def port_is_free(port: int) -> bool:
    """Whether a server could listen on this loopback port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


class _PortFinder:
    """Gives free ports, each only once."""

    def __init__(self) -> None:
        self._given: set[int] = set()

    def __call__(self) -> int:
        while True:
            with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
                probe.bind((LOOPBACK, 0))
                port = int(probe.getsockname()[1])
            if port not in self._given:
                self._given.add(port)
                return port


def free_port() -> int:
    """A loopback port that nobody uses now."""
    return _PortFinder()()
