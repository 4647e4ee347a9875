"""One node at a time on one computer: its addresses are fixed and its image store has one user."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

from tests.cluster.binaries import Progress
from tests.cluster.errors import Unavailable

WAIT_SECONDS = 1800.0


@contextlib.contextmanager
def node_lock(
    path: Path, *, purpose: str, lasting: bool, progress: Progress, patience: float = WAIT_SECONDS
) -> Iterator[None]:
    """Holds the node's lock. Tests wait for other tests; nobody waits for a `lasting` holder, which a person ends.

    Raises Unavailable with the holder's purpose when there is no waiting, or after `patience` seconds of it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as handle:
        _acquire(handle.fileno(), path, progress=progress, patience=patience)
        handle.truncate(0)
        handle.write(json.dumps({"pid": os.getpid(), "purpose": purpose, "lasting": lasting}))
        handle.flush()
        try:
            yield
        finally:
            handle.truncate(0)


def _acquire(descriptor: int, path: Path, *, progress: Progress, patience: float) -> None:
    deadline = time.monotonic() + patience
    told = False
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _holder(path)
            text = f"{holder.get('purpose', 'another process')} (pid {holder.get('pid', 'unknown')})"
            if holder.get("lasting"):
                raise Unavailable(f"this machine's node is in use by {text}") from None
            if time.monotonic() > deadline:
                raise Unavailable(f"this machine's node was in use for {patience:.0f} s by {text}") from None
            if not told:
                progress(f"waiting for the node, in use by {text}")
                told = True
            time.sleep(0.2)
        else:
            return


def _holder(path: Path) -> dict[str, object]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}  # The holder is just writing its name.
    return found if isinstance(found, dict) else {}
