"""The directory of one run. Its owner holds a lock in it, which the kernel frees however the owner ends.

A run that was killed cannot tidy up; the lock lets the next one do it: a directory of this user that nobody holds any
more is deleted. One without a lock in it (logs that were kept) is left alone.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PREFIX = "tandem-local-"
LOCK = ".owner"


@contextmanager
def owned_directory(parent: Path | None = None) -> Iterator[Path]:
    """A fresh directory below `parent` (default: that for temporary files), locked until the end of the context.

    The caller deletes it. Directories that killed runs left are deleted first.
    """
    parent = parent or Path(tempfile.gettempdir())
    sweep(parent)
    scratch = Path(tempfile.mkdtemp(prefix=f".{PREFIX}", dir=parent))
    with (scratch / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # Only now it gets a name that `sweep` looks for.
        directory = scratch.rename(scratch.with_name(scratch.name.removeprefix(".")))
        yield directory


def sweep(parent: Path) -> list[Path]:
    """Deletes directories of this user whose owner is gone; returns them."""
    swept = []
    for directory in sorted(parent.glob(f"{PREFIX}*")):
        try:
            if directory.lstat().st_uid != os.getuid():
                continue
            lock = os.open(directory / LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            continue  # no run's directory, one that is just being deleted, or kept logs
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        else:
            # Not through a link: rmtree refuses one in the directory's place and follows none below it.
            shutil.rmtree(directory, ignore_errors=True)
            swept.append(directory)
        finally:
            os.close(lock)
    return swept
