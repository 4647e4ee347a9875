"""What a killed run left is deleted by the next one; nothing else is."""

import os
import signal
import subprocess
import sys

import pytest

from tandem.local.rundir import LOCK, PREFIX, owned_directory, sweep

HOLD = """
import signal, sys
from pathlib import Path
from tandem.local.rundir import owned_directory
with owned_directory(Path(sys.argv[1])) as directory:
    print(directory, flush=True)
    signal.pause()
"""


@pytest.fixture
def killed(tmp_path):
    """The directory of a run that was killed."""
    holder = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, text=True)
    directory = tmp_path / holder.stdout.readline().strip()
    (directory / "logs").mkdir()
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    return directory


def test_the_next_run_deletes_what_a_killed_one_left(tmp_path, killed):
    with owned_directory(tmp_path) as directory:
        assert list(tmp_path.iterdir()) == [directory]


def test_a_run_that_lives_keeps_its_directory(tmp_path):
    with owned_directory(tmp_path) as first, owned_directory(tmp_path) as second:
        assert sweep(tmp_path) == []
        assert first.is_dir()
        assert second.is_dir()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory to another user")
def test_another_users_directory_stays(tmp_path, killed):
    os.chown(killed, 65534, 65534)
    assert sweep(tmp_path) == []
    assert killed.is_dir()


def test_kept_logs_and_links_stay(tmp_path, killed):
    (tmp_path / f"{PREFIX}logs" / "logs").mkdir(parents=True)
    elsewhere = tmp_path / "elsewhere"
    killed.rename(elsewhere)
    (tmp_path / f"{PREFIX}link").symlink_to(elsewhere)
    sweep(tmp_path)
    assert (tmp_path / f"{PREFIX}logs" / "logs").is_dir()
    assert (elsewhere / LOCK).exists()
