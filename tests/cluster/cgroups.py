"""Control groups that kubelet makes: told apart from another kubelet's, removed when the node is gone."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from tests.cluster.errors import Unavailable

CGROUPS = Path("/sys/fs/cgroup")
POD_GROUP = "kubepods"


def check_no_other_kubelet(root: Path = CGROUPS) -> None:
    """Raises Unavailable when pods of another kubelet run on this machine."""
    for group in _pod_groups(root):
        if any(_processes(member) for member in (group, *group.rglob("*/"))):
            raise Unavailable(f"another kubelet runs pods on this machine ({group})")


def remove_pod_groups(root: Path = CGROUPS, *, timeout: float = 5) -> None:
    """Removes the groups of a node that has ended; gives the kernel `timeout` seconds to let go of them."""
    deadline = time.monotonic() + timeout
    while groups := _pod_groups(root):
        for group in groups:
            members = sorted(group.rglob("*/"), key=lambda path: len(path.parts), reverse=True)
            for member in (*members, group):
                with contextlib.suppress(OSError):
                    member.rmdir()
        if time.monotonic() > deadline:
            return
        time.sleep(0.05)


def _pod_groups(root: Path) -> list[Path]:
    """One per controller in version 1 of control groups, one at all in version 2."""
    return [path for path in (root / POD_GROUP, *root.glob(f"*/{POD_GROUP}")) if path.is_dir()]


def _processes(group: Path) -> str:
    try:
        return (group / "cgroup.procs").read_text().strip()
    except OSError:
        return ""
