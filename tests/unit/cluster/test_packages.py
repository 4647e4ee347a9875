"""What happens when a system program is missing: apt-get runs as root, and every obstacle is a reason to skip."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.cluster import packages
from tests.cluster.errors import Unavailable
from tests.cluster.packages import SystemProgram, ensure

APT = """#!/bin/sh
echo "$DEBIAN_FRONTEND $*" >> {folder}/calls
for argument; do
    case $argument in update) what=update;; install) what=install;; esac
done
if [ -e {folder}/$what.fails ]; then cat {folder}/$what.fails >&2; exit 100; fi
[ $what = update ] || [ -e {folder}/empty ] || touch {folder}/tool
"""


class Machine:
    """A search path with an apt-get that brings one program, and writes down how it was called."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.need = SystemProgram(package="tool-package", is_there=(folder / "tool").exists)
        self.said: list[str] = []

    def ensure(self) -> None:
        ensure([self.need], purpose="a test", progress=self.said.append)

    @property
    def calls(self) -> list[str]:
        calls = self.folder / "calls"
        return calls.read_text().splitlines() if calls.exists() else []


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    apt = tmp_path / "apt-get"
    apt.write_text(APT.format(folder=tmp_path))
    apt.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return Machine(tmp_path)


def test_nothing_runs_when_everything_is_there(machine: Machine) -> None:
    (machine.folder / "tool").touch()
    machine.ensure()
    assert machine.calls == []


def test_what_is_missing_is_installed_without_questions(machine: Machine) -> None:
    machine.ensure()
    update, install = machine.calls
    assert update.startswith("noninteractive ")
    assert update.endswith(" update")
    assert "DPkg::Lock::Timeout=" in install
    assert install.endswith(" install --yes --no-install-recommends --no-remove tool-package")
    assert machine.said == ["installing tool-package for a test"]


def test_an_update_that_fails_does_not_matter_when_the_package_is_known(machine: Machine) -> None:
    (machine.folder / "update.fails").write_text("one of the servers is away")
    machine.ensure()
    assert (machine.folder / "tool").exists()


def test_offline_is_unavailable_with_what_both_steps_said(machine: Machine) -> None:
    (machine.folder / "update.fails").write_text("E: Could not resolve the server")
    (machine.folder / "install.fails").write_text("E: Unable to locate package tool-package")
    with pytest.raises(Unavailable, match=r"tool-package.*Could not resolve.*Unable to locate"):
        machine.ensure()


def test_without_root_the_command_is_told(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(Unavailable, match="a test needs tool-package; as root: apt-get install tool-package"):
        machine.ensure()
    assert machine.calls == []


def test_without_apt_get_it_is_unavailable(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(machine.folder / "nothing"))
    monkeypatch.setattr(packages, "SYSTEM_FOLDERS", ())
    with pytest.raises(Unavailable, match="there is no apt-get"):
        machine.ensure()


def test_a_package_that_brings_something_else_is_told(machine: Machine) -> None:
    (machine.folder / "empty").touch()
    with pytest.raises(Unavailable, match="installed, but what they should bring is not there"):
        machine.ensure()
