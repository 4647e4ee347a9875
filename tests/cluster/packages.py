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
# Seconds: of waiting for another apt-get, and for a server that does not answer.
APT_OPTIONS = (
    "DPkg::Lock::Timeout=120",
    "Acquire::Retries=1",
    "Acquire::http::Timeout=20",
    "Acquire::https::Timeout=20",
)
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

    Raises Unavailable with the command to run, or with apt-get's own words, where this cannot be done.
    """
    needs = tuple(needs)
    missing = _missing(needs)
    if not missing:
        return
    apt = find_program("apt-get")
    by_hand = f"apt-get install {' '.join(missing)}"
    if apt is None:
        raise Unavailable(f"{purpose} needs {', '.join(missing)}, and there is no apt-get (on Debian: {by_hand})")
    if os.geteuid() != 0:
        raise Unavailable(f"{purpose} needs {', '.join(missing)}; as root: {by_hand}")
    progress(f"installing {', '.join(missing)} for {purpose}")
    updated = _apt(apt, "update")
    # Nothing is taken away for it: a container runtime of the user's may be in conflict with Debian's.
    installed = _apt(apt, "install", "--yes", "--no-install-recommends", "--no-remove", *missing)
    if installed.returncode != 0:
        # An update that failed tells more than the packages that are unknown because of it.
        said = " ".join(done.stderr.strip()[-400:] for done in (updated, installed) if done.returncode != 0)
        raise Unavailable(f"{purpose} needs {', '.join(missing)}, and apt-get cannot install them: {said}")
    if still := _missing(needs):
        raise Unavailable(f"{purpose} needs {', '.join(still)}: installed, but what they should bring is not there")


def _missing(needs: Iterable[SystemProgram]) -> list[str]:
    return sorted({need.package for need in needs if not need.is_there()})


def _apt(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs apt-get without questions and with an end, also offline or beside another one that holds its lock."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}
    command = [program, *(f"--option={option}" for option in APT_OPTIONS), *arguments]
    return subprocess.run(
        command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
