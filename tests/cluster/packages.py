"""Programs that come from the operating system: finds what is missing and installs it where that is possible."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.binaries import Progress
from tests.cluster.errors import Unavailable

CNI_PLUGINS = Path("/usr/lib/cni")
# Some of these lie outside the search path of an ordinary user.
SYSTEM_FOLDERS = (Path("/usr/sbin"), Path("/sbin"))


@dataclass(frozen=True)
class SystemProgram:
    """Something the rig needs on the machine, and the Debian package that brings it."""

    package: str
    is_there: Callable[[], bool]


def _program(name: str, package: str) -> SystemProgram:
    return SystemProgram(package=package, is_there=lambda: find_program(name) is not None)


NODE_NEEDS = (
    _program("containerd", "containerd"),
    _program("runc", "runc"),
    SystemProgram(package="containernetworking-plugins", is_there=(CNI_PLUGINS / "ptp").exists),
    _program("iptables", "iptables"),
    _program("ip", "iproute2"),
    _program("conntrack", "conntrack"),
    _program("mount", "mount"),
    _program("unshare", "util-linux"),
    _program("gcc", "gcc"),
    SystemProgram(package="libc6-dev", is_there=lambda: bool(list(Path("/usr/lib").glob("*/libc.a")))),
)
BUILD_NEEDS = (_program("buildah", "buildah"), _program("debootstrap", "debootstrap"))


def find_program(name: str) -> str | None:
    """The path of a program in PATH or in the system's own folders."""
    folders = (os.environ.get("PATH", os.defpath), *map(str, SYSTEM_FOLDERS))
    return shutil.which(name, path=os.pathsep.join(folders))


def ensure(needs: Iterable[SystemProgram], *, purpose: str, progress: Progress) -> None:
    """Installs what is missing, as root with apt-get.

    Raises Unavailable with the command to run where this cannot be done.
    """
    missing = sorted({need.package for need in needs if not need.is_there()})
    if not missing:
        return
    command = ["apt-get", "install", "--yes", "--no-install-recommends", *missing]
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise Unavailable(f"{purpose} needs {', '.join(missing)}; on Debian as root: {' '.join(command)}")
    progress(f"installing {', '.join(missing)} for {purpose}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for step in (["apt-get", "update"], command):
        done = subprocess.run(step, env=environment, capture_output=True, text=True, check=False)
        # The second step tells whether an incomplete update mattered.
        if done.returncode != 0 and step is command:
            raise Unavailable(f"{' '.join(command)} failed: {done.stderr.strip()[-500:]}")
