"""The folder of one running rig, with a record of every process that belongs to it.

A rig that is killed outright cannot tidy up. Its record lets the next one do it: only processes that are provably the
recorded ones are ended, and only folders whose owner is gone are deleted.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tests.cluster.identity import ProcessIdentity, end_processes

STATE_FILE = "state.json"


def runs_root() -> Path:
    """Where this user's rigs live. Short, because Unix sockets below it may have 107 characters at most."""
    return Path(tempfile.gettempdir()) / f"tandem-cluster-{os.getuid()}"


@dataclass(frozen=True)
class State:
    """What is on record about a rig: the process that owns it and what it started."""

    owner: ProcessIdentity
    processes: tuple[ProcessIdentity, ...] = ()

    def to_json(self) -> str:
        """The state as one JSON object."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> State:
        """Reads what `to_json` wrote. Raises ValueError, TypeError or KeyError for anything else."""
        data: dict[str, Any] = json.loads(text)
        return cls(
            owner=ProcessIdentity(**data["owner"]),
            processes=tuple(ProcessIdentity(**process) for process in data["processes"]),
        )


class RunDirectory:
    """A fresh folder for one rig, deleted at the end of the context; `record` every process as soon as it is there."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._state = State(owner=ProcessIdentity.of(os.getpid()))

    @classmethod
    def create(cls, *, prefix: str, root: Path | None = None) -> RunDirectory:
        """Makes the folder below `root` (default: `runs_root()`), readable by this user alone."""
        root = root or runs_root()
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory = cls(Path(tempfile.mkdtemp(prefix=f"{prefix}-", dir=root)))
        directory._write()
        return directory

    def record(self, process: ProcessIdentity) -> None:
        """Adds a process to the record on disk."""
        self._state = dataclasses.replace(self._state, processes=(*self._state.processes, process))
        self._write()

    def subdirectory(self, name: str) -> Path:
        """A folder inside, made when missing."""
        path = self.path / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        """Deletes the folder."""
        remove_tree(self.path)

    def _write(self) -> None:
        scratch = self.path / f".{STATE_FILE}"
        scratch.write_text(self._state.to_json())
        scratch.rename(self.path / STATE_FILE)


def sweep(root: Path | None = None) -> list[Path]:
    """Ends and deletes rigs whose owner died without doing so; returns their folders."""
    swept = []
    for state_file in sorted((root or runs_root()).glob(f"*/{STATE_FILE}")):
        try:
            state = State.from_json(state_file.read_text())
        except (OSError, ValueError, TypeError, KeyError):
            continue  # Just being made or removed by its owner, or not ours: not to be touched.
        if state.owner.is_alive():
            continue
        end_processes(list(state.processes), grace=0)
        remove_tree(state_file.parent)
        swept.append(state_file.parent)
    return swept


def remove_tree(path: Path) -> None:
    """Deletes a folder, or leaves it where something stays mounted in it: deleting would go on in what is mounted."""
    for mount_point in _mount_points_below(path):
        subprocess.run(["umount", "--lazy", str(mount_point)], check=False, capture_output=True)
    if not _mount_points_below(path):
        shutil.rmtree(path, ignore_errors=True)


def _mount_points_below(path: Path) -> list[Path]:
    """Mount points at or below `path`, deepest first."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    # The kernel writes blanks in paths as octal escapes.
    points = [Path(line.split()[4].encode().decode("unicode_escape")) for line in lines]
    below = [point for point in points if point == path or path in point.parents]
    return sorted(below, key=lambda point: len(point.parts), reverse=True)
