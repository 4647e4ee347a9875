"""`python -m tests.cluster`: a cluster for a person comes up once, works, and goes away completely."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cluster.binaries import CONTROL_PLANE_PROGRAMS, Binaries
from tests.cluster.errors import Unavailable

pytestmark = pytest.mark.integration

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def command(tmp_path: Path, cluster_binaries: Binaries) -> Iterator[Command]:
    """Runs the command with a folder for temporary files of its own: a cluster that a person has up is not met."""
    try:
        cluster_binaries.get_all(CONTROL_PLANE_PROGRAMS)
    except Unavailable as error:
        pytest.skip(f"no control plane: {error.reason}")
    environment = {**os.environ, "TMPDIR": str(tmp_path)}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", "tests.cluster", *arguments]
        return subprocess.run(line, env=environment, capture_output=True, text=True, check=False)

    yield run
    run("down")


def test_cluster_for_a_person_comes_and_goes(command: Command, cluster_binaries: Binaries, tmp_path: Path) -> None:
    assert command("status").returncode == 1
    up = command("up", "--no-node")
    assert up.returncode == 0, up.stderr
    last = up.stdout.splitlines()[-1]
    kubeconfig = last.removeprefix("export KUBECONFIG=")
    assert kubeconfig != last

    kubectl = [str(cluster_binaries.get("kubectl")), f"--kubeconfig={kubeconfig}", "get", "namespace", "default"]
    assert subprocess.run(kubectl, check=False, capture_output=True).returncode == 0
    assert command("up").stdout == up.stdout
    assert command("status").returncode == 0

    server = int(re.findall(r"process (\d+)", up.stdout)[0])
    assert command("down").returncode == 0
    assert not Path(f"/proc/{server}").exists() or "\nState:\tZ" in Path(f"/proc/{server}/status").read_text()
    assert not list(tmp_path.glob("tandem-cluster-*/cp-*"))
    assert command("status").returncode == 1


def test_error_is_told_without_a_traceback(tmp_path: Path) -> None:
    environment = {"PATH": str(tmp_path), "TANDEM_CACHE": str(tmp_path), "TMPDIR": str(tmp_path)}
    line = [sys.executable, "-m", "tests.cluster", "up", "--no-node"]
    failed = subprocess.run(line, env=environment, capture_output=True, text=True, check=False)
    assert failed.returncode == 1
    assert "there is no go to build it" in failed.stderr
    assert "Traceback" not in failed.stderr
