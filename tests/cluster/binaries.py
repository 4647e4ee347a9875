"""Finds the programs of a cluster, or builds them from Go modules.

A program is looked for in `KUBEBUILDER_ASSETS` (the convention of envtest), then in a cache of this user, and is
built into that cache when it is in neither. The cache's folder is named by a hash of everything that decides what is
built, so another version never picks up old programs.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.errors import RigError, Unavailable

Progress = Callable[[str], None]

KUBERNETES_VERSION = "v1.34.4"
GO_MODULE = Path(__file__).parent / "go"


@dataclass(frozen=True)
class Program:
    """One program and where its source is.

    `version` is set for a program that is its own main module (`go install package@version`); a program without it is
    built inside the rig's Go module, whose go.mod names the version.
    """

    name: str
    package: str
    version: str = ""
    ldflags: tuple[str, ...] = ()


def _kubernetes_flags() -> tuple[str, ...]:
    """Linker flags without which a self-built server calls itself v0.0.0-master and charts refuse it."""
    major, minor, _ = KUBERNETES_VERSION.removeprefix("v").split(".")
    stamp = {"gitVersion": KUBERNETES_VERSION, "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
    packages = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
    return tuple(f"-X {package}.{key}={value}" for package in packages for key, value in stamp.items())


def _kubernetes(name: str) -> Program:
    return Program(name=name, package=f"k8s.io/kubernetes/cmd/{name}", ldflags=_kubernetes_flags())


# The order is the order in which `build` makes them: what most tests need comes first.
PROGRAMS: tuple[Program, ...] = (
    Program(name="etcd", package="go.etcd.io/etcd/server/v3"),
    _kubernetes("kube-apiserver"),
    _kubernetes("kube-controller-manager"),
    _kubernetes("kubectl"),
    _kubernetes("kube-scheduler"),
    _kubernetes("kubelet"),
    _kubernetes("kube-proxy"),
    Program(name="coredns", package="github.com/coredns/coredns", version="v1.15.0"),
    Program(
        name="helm",
        package="helm.sh/helm/v3/cmd/helm",
        version="v3.21.4",
        ldflags=("-X helm.sh/helm/v3/internal/version.version=v3.21.4",),
    ),
    Program(name="kubeconform", package="github.com/yannh/kubeconform/cmd/kubeconform", version="v0.8.0"),
)
CONTROL_PLANE_PROGRAMS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl")
NODE_PROGRAMS = ("kubelet", "kube-proxy", "coredns")


def cache_root(environ: Mapping[str, str]) -> Path:
    """The folder for everything that is worth keeping between runs; it may not exist yet."""
    if chosen := environ.get("TANDEM_CACHE"):
        return Path(chosen)
    base = environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "tandem"


def content_key() -> str:
    """Names the cache's folder: a hash of the Go module and of every program's version and flags."""
    digest = hashlib.sha256(platform.machine().encode())
    for name in ("go.mod", "go.sum"):
        digest.update((GO_MODULE / name).read_bytes())
    for program in PROGRAMS:
        digest.update(repr(program).encode())
    return digest.hexdigest()[:16]


def print_progress(line: str) -> None:
    """The default `Progress`: one line on stderr, at once."""
    print(f"[cluster] {line}", file=sys.stderr, flush=True)


@contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """Holds an exclusive lock on `path` between processes; waits for it. The kernel drops it when the holder dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


@dataclass(frozen=True)
class Binaries:
    """Where programs come from: an optional folder of ready ones, then the cache, then a build into the cache."""

    cache: Path
    assets: Path | None = None
    progress: Progress = print_progress

    @classmethod
    def from_environment(cls, *, progress: Progress = print_progress) -> Binaries:
        """Reads `KUBEBUILDER_ASSETS`, `TANDEM_CACHE` and `XDG_CACHE_HOME`."""
        assets = os.environ.get("KUBEBUILDER_ASSETS")
        return cls(
            cache=cache_root(os.environ) / "bin" / content_key(),
            assets=Path(assets) if assets else None,
            progress=progress,
        )

    def find(self, name: str) -> Path | None:
        """The path of a program that is there already, else None."""
        for folder in (self.assets, self.cache):
            if folder is not None and os.access(folder / name, os.X_OK):
                return folder / name
        return None

    def get(self, name: str) -> Path:
        """The path of a program, built first when it has to be (minutes).

        Raises Unavailable when there is no Go to build with, RigError when the build fails, KeyError for a program
        the rig does not know.
        """
        program = {program.name: program for program in PROGRAMS}[name]
        if found := self.find(name):
            return found
        if shutil.which("go") is None:
            raise Unavailable(
                f"{name} is neither in KUBEBUILDER_ASSETS nor in {self.cache}, and there is no go to build it"
            )
        try:
            self.cache.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            fix = "set TANDEM_CACHE to a folder that you may write to"
            raise Unavailable(
                f"{name} has to be built, and cannot be kept in {self.cache}: {error.strerror}; {fix}"
            ) from error
        if self._build_lock_is_taken():
            self.progress(f"waiting for another process that builds programs ({name} is wanted)")
        with file_lock(self._lock_path):
            # Another process may have built it while this one waited for the lock.
            return self.find(name) or self._build(program)

    def get_all(self, names: tuple[str, ...]) -> dict[str, Path]:
        """`get` for several programs, in the order given."""
        return {name: self.get(name) for name in names}

    @property
    def _lock_path(self) -> Path:
        return self.cache / ".lock"

    def _build_lock_is_taken(self) -> bool:
        with self._lock_path.open("a") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    def _build(self, program: Program) -> Path:
        self.progress(f"building {program.name} (once; it stays in {self.cache})")
        started = time.monotonic()
        target = self.cache / program.name
        with tempfile.TemporaryDirectory(dir=self.cache, prefix=".build-") as scratch:
            _run_go(program, Path(scratch))
            # A rename within one file system is atomic: nobody ever finds half a program under its name.
            (Path(scratch) / program.name).rename(target)
        self.progress(f"built {program.name} in {time.monotonic() - started:.0f} s")
        return target


def _run_go(program: Program, target: Path) -> None:
    """Leaves the program in the folder `target`."""
    flags = ["-trimpath", "-ldflags", " ".join(("-s", "-w", *program.ldflags))]
    environment = {**os.environ, "CGO_ENABLED": "0"}
    if program.version:
        command = ["go", "install", *flags, f"{program.package}@{program.version}"]
        environment["GOBIN"] = str(target)
        folder = target
    else:
        command = ["go", "build", *flags, "-o", str(target / program.name), program.package]
        folder = GO_MODULE
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RigError(f"building {program.name} failed: {' '.join(command)}\n{done.stderr[-4000:]}")
