"""Rigs that died are tidied up after; processes and rigs that live are left alone."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.identity import ProcessIdentity, end_processes
from tests.cluster.rundir import STATE_FILE, RunDirectory, State, sweep


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "60"])
    yield process
    process.kill()
    process.wait()


def a_dead_process() -> ProcessIdentity:
    process = subprocess.Popen(["sleep", "60"])
    identity = ProcessIdentity.of(process.pid)
    process.kill()
    process.wait()
    return identity


def abandoned(root: Path, *processes: ProcessIdentity, owner: ProcessIdentity) -> Path:
    folder = root / "abandoned"
    folder.mkdir()
    (folder / STATE_FILE).write_text(State(owner=owner, processes=processes).to_json())
    return folder


def test_state_survives_the_disk() -> None:
    me = ProcessIdentity.of(os.getpid())
    state = State(owner=me, processes=(me, me))
    assert State.from_json(state.to_json()) == state


def test_rig_without_owner_is_ended_and_deleted(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    folder = abandoned(tmp_path, ProcessIdentity.of(sleeper.pid), owner=a_dead_process())
    assert sweep(tmp_path) == [folder]
    assert not folder.exists()
    assert sleeper.wait(timeout=30) == -signal.SIGKILL


def test_process_that_got_the_pid_later_is_not_ended(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    former = dataclasses.replace(ProcessIdentity.of(sleeper.pid), started=1)
    abandoned(tmp_path, former, owner=a_dead_process())
    sweep(tmp_path)
    assert sleeper.poll() is None


def test_process_of_an_earlier_boot_is_not_ended(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    former = dataclasses.replace(ProcessIdentity.of(sleeper.pid), boot="before")
    abandoned(tmp_path, former, owner=a_dead_process())
    sweep(tmp_path)
    assert sleeper.poll() is None


def test_rig_with_a_living_owner_is_left_alone(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    with RunDirectory.create(prefix="cp", root=tmp_path) as directory:
        directory.record(ProcessIdentity.of(sleeper.pid))
        assert sweep(tmp_path) == []
        assert directory.path.exists()
    assert not directory.path.exists()
    assert sleeper.poll() is None


def test_folder_with_an_unreadable_record_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / STATE_FILE).write_text('{"something": "else"}')
    assert sweep(tmp_path) == []
    assert (tmp_path / "other").exists()


def test_child_that_ended_already_has_an_identity_and_is_not_alive() -> None:
    child = subprocess.Popen(["true"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert not ProcessIdentity.of(child.pid).is_alive()
    child.wait()


def test_process_that_ignores_the_request_is_killed() -> None:
    stubborn = subprocess.Popen(["sh", "-c", "trap '' TERM; echo ready; sleep 60 & wait; wait"], stdout=subprocess.PIPE)
    assert stubborn.stdout is not None
    stubborn.stdout.readline()
    assert end_processes([ProcessIdentity.of(stubborn.pid)], grace=0.2) == []
    assert stubborn.wait(timeout=30) == -signal.SIGKILL
    stubborn.stdout.close()
