"""Nothing that the rig starts outlives it, and nothing ends before it should."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.errors import RigError
from tests.cluster.identity import ProcessIdentity
from tests.cluster.processes import Processes, wait_until
from tests.cluster.rundir import RunDirectory, State

OWNER = """
import sys, time
from pathlib import Path
from tests.cluster.processes import Processes, wait_until
from tests.cluster.rundir import RunDirectory
processes = Processes(RunDirectory.create(prefix="rig", root=Path(sys.argv[1])))
child = processes.start("child", ["sh", "-c", "echo runs; exec sleep 60"])
wait_until(lambda: child.log_tail() == "runs", what="it runs", timeout=30, process=child)
print(child.identity.pid, flush=True)
time.sleep(60)
"""


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    with RunDirectory.create(prefix="rig", root=tmp_path) as directory:
        running = Processes(directory)
        yield running
        running.stop_all()


def test_child_ends_when_its_rig_is_killed(tmp_path: Path) -> None:
    owner = subprocess.Popen([sys.executable, "-c", OWNER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    child = ProcessIdentity.of(int(owner.stdout.readline()))
    owner.kill()
    owner.wait()
    owner.stdout.close()
    assert child.wait(timeout=30)


def test_child_outlives_the_thread_that_asked_for_it(processes: Processes) -> None:
    asking = threading.Thread(target=lambda: processes.start("child", ["sleep", "60"]))
    asking.start()
    asking.join()
    assert not processes.get("child").identity.wait(timeout=0.3)


def test_children_are_on_record_and_end_with_the_rig(tmp_path: Path) -> None:
    with RunDirectory.create(prefix="rig", root=tmp_path) as directory:
        processes = Processes(directory)
        child = processes.start("child", ["sleep", "60"]).identity
        state = State.from_json((directory.path / "state.json").read_text())
        assert (state.owner.pid, state.processes) == (os.getpid(), (child,))
        processes.stop_all()
    assert not child.is_alive()


def test_program_that_ends_early_is_reported_with_its_output(processes: Processes) -> None:
    child = processes.start("child", ["sh", "-c", "echo no such thing; exit 3"])
    with pytest.raises(RigError, match=r"child ended with exit status 3 before it is up\nno such thing"):
        wait_until(lambda: False, what="it is up", timeout=10, process=child)


def test_program_that_is_killed_is_reported_with_the_signal(processes: Processes) -> None:
    child = processes.start("child", ["sleep", "60"])
    child.identity.send(signal.SIGKILL)
    with pytest.raises(RigError, match="SIGKILL"):
        wait_until(lambda: False, what="it is up", timeout=10, process=child)


def test_waiting_ends_with_what_was_waited_for() -> None:
    with pytest.raises(RigError, match="the sky falls: not after 0 s"):
        wait_until(lambda: False, what="the sky falls", timeout=0.1)
