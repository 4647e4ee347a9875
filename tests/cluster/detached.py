"""A cluster that outlives the command that started it, for a person to work with.

One process serves it (`serve`) and ends it when told to; a record on disk says which process that is. Everything it
starts ends with it, so ending exactly that process ends exactly that cluster.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.cluster.binaries import Binaries, Progress, print_progress
from tests.cluster.client import ClusterClient
from tests.cluster.control_plane import running_control_plane
from tests.cluster.errors import RigError, Unavailable
from tests.cluster.identity import ProcessIdentity, end_processes
from tests.cluster.node import NodeCluster, image_builder, image_store, kept_folder, running_node_cluster
from tests.cluster.project_images import build_project_images
from tests.cluster.rundir import runs_root, sweep

START_SECONDS = 900.0
STOP_SECONDS = 60.0


@dataclass(frozen=True)
class Record:
    """The cluster that is up: the process that serves it and how to reach it."""

    server: ProcessIdentity
    kubeconfig: str
    programs: str
    """Folders with kubectl and helm, as a part of a search path."""
    has_node: bool
    containerd: str = ""
    """The socket of the node's container runtime."""

    @classmethod
    def read(cls) -> Record | None:
        """The record of a cluster that is up, None when there is none or its process is gone."""
        try:
            data = json.loads(record_file().read_text())
        except (OSError, ValueError):
            return None
        record = cls(**{**data, "server": ProcessIdentity(**data["server"])})
        return record if record.server.is_alive() else None

    def write(self) -> None:
        """Replaces the record on disk in one step."""
        scratch = record_file().with_suffix(".new")
        scratch.write_text(json.dumps(dataclasses.asdict(self)))
        scratch.rename(record_file())


def record_file() -> Path:
    """Where the record lies; one cluster per user."""
    return runs_root() / "up.json"


def up(*, node: bool | None) -> Record:
    """Starts a cluster unless one is up; `node` None means: with a node where this computer can have one.

    Raises RigError with the server's output when it does not start.
    """
    if record := Record.read():
        return record
    runs_root().mkdir(mode=0o700, parents=True, exist_ok=True)
    log = runs_root() / "up.log"
    flag = {None: [], True: ["--node"], False: ["--no-node"]}[node]
    with log.open("wb") as output:
        server = subprocess.Popen(
            [sys.executable, "-m", "tests.cluster", "serve", *flag],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        return _wait_for_record(server, log)
    except BaseException:
        # Also when the person at the terminal gave up: what is not up is not left half up.
        if server.poll() is None:
            end_processes([ProcessIdentity.of(server.pid)], grace=STOP_SECONDS)
        raise


def bring_images(record: Record, *, tag: str, progress: Progress = print_progress) -> tuple[str, ...]:
    """Builds the project's images and imports them into the node of the cluster that is up; returns their names.

    Raises Unavailable when it has no node, RigError when a build fails.
    """
    if not record.has_node:
        raise Unavailable("the cluster that is up has no node that could run images (it needs root)")
    builder = image_builder(kept_folder(), progress)
    store = image_store(Path(record.containerd))

    def build(*, tag: str, **options: Any) -> str:
        image_id = builder.build(tag=tag, **options)
        builder.send(image_id=image_id, tag=tag, store=store)
        return tag

    return build_project_images(build, base=builder.base_image(), tag=tag)


def down() -> bool:
    """Ends the cluster that `up` started, and only that; False when none is up."""
    record = Record.read()
    if record is not None:
        end_processes([record.server], grace=STOP_SECONDS)
    record_file().unlink(missing_ok=True)
    sweep()
    return record is not None


def serve(*, node: bool | None) -> None:
    """Runs a cluster in this process until SIGTERM or SIGINT. Raises Unavailable, RigError."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    binaries = Binaries.from_environment()
    try:
        with _cluster(binaries, node) as cluster:
            Record(
                server=ProcessIdentity.of(os.getpid()),
                kubeconfig=str(cluster.kubeconfig),
                programs=_programs(cluster),
                has_node=isinstance(cluster, NodeCluster),
                containerd=str(cluster.socket) if isinstance(cluster, NodeCluster) else "",
            ).write()
            while True:
                signal.pause()
    except KeyboardInterrupt:
        record_file().unlink(missing_ok=True)


@contextmanager
def _cluster(binaries: Binaries, node: bool | None) -> Iterator[ClusterClient]:
    if node is not False:
        try:
            with running_node_cluster(binaries, purpose="make cluster-up", lasting=True) as cluster:
                yield cluster
                return
        except Unavailable as error:
            if node:
                raise
            print_progress(f"without a node: {error.reason}")
    with running_control_plane(binaries) as plane:
        yield plane


def _programs(cluster: ClusterClient) -> str:
    """The folders with kubectl and helm, as a part of a search path; helm is built when it is missing."""
    folders = [cluster.bin("kubectl").parent]
    try:
        folders.append(cluster.bin("helm").parent)
    except (Unavailable, RigError) as error:
        print_progress(f"without helm: {error}")
    return os.pathsep.join(dict.fromkeys(map(str, folders)))


def _wait_for_record(server: subprocess.Popen[bytes], log: Path) -> Record:
    shown = 0
    deadline = time.monotonic() + START_SECONDS
    while server.poll() is None and time.monotonic() < deadline:
        shown += _copy_to_stderr(log, shown)
        if record := Record.read():
            return record
        time.sleep(0.1)
    _copy_to_stderr(log, shown)
    raise RigError("the cluster did not start")


def _copy_to_stderr(log: Path, offset: int) -> int:
    """Shows what was added to the log after `offset`; returns how many bytes that were."""
    with log.open("rb") as handle:
        handle.seek(offset)
        added = handle.read()
    sys.stderr.write(added.decode(errors="replace"))
    sys.stderr.flush()
    return len(added)
