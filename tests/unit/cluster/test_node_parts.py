"""Parts of the node that need no node: its files, its lock, its control groups, what the system has to bring."""

from __future__ import annotations

import json
import os
import threading
import time
import tomllib
from pathlib import Path

import pytest
import yaml

from tests.cluster import node_files
from tests.cluster.cgroups import check_no_other_kubelet, remove_pod_groups
from tests.cluster.errors import Unavailable
from tests.cluster.node_lock import node_lock
from tests.cluster.packages import SystemProgram, ensure

FOLDERS = node_files.NodeFolders(kept=Path("/kept"), run=Path("/run-1"))


def ignore(_: str) -> None:
    """Progress that nobody sees."""


def test_container_runtime_keeps_apart_from_another_one() -> None:
    config = tomllib.loads(node_files.containerd_config(FOLDERS, pause_tag="localhost/p:1"))
    assert (config["root"], config["grpc"]["address"]) == ("/kept/containerd", "/run-1/containerd.sock")
    cri = config["plugins"]["io.containerd.grpc.v1.cri"]
    assert cri["sandbox_image"] == "localhost/p:1"
    assert cri["restrict_oom_score_adj"] is True


def test_kubelet_never_deletes_images_that_are_kept_between_runs() -> None:
    config = yaml.safe_load(node_files.kubelet_config(FOLDERS, client_authority=Path("/ca.crt")))
    assert config["imageGCHighThresholdPercent"] == 100
    assert config["containerRuntimeEndpoint"] == "unix:///run-1/containerd.sock"


def test_pod_network_hands_out_the_addresses_of_the_node() -> None:
    first, *_ = json.loads(node_files.cni_config())["plugins"]
    assert first["ipam"]["ranges"] == [[{"subnet": "10.244.0.0/24"}]]


def test_nobody_waits_for_a_cluster_that_a_person_has_to_end(tmp_path: Path) -> None:
    lock = tmp_path / "node.lock"
    with (
        node_lock(lock, purpose="make cluster-up", lasting=True, progress=ignore),
        pytest.raises(Unavailable, match=f"in use by make cluster-up \\(pid {os.getpid()}\\)"),
        node_lock(lock, purpose="tests", lasting=False, progress=ignore),
    ):
        pass


def test_tests_wait_for_other_tests_and_say_so_once(tmp_path: Path) -> None:
    lock = tmp_path / "node.lock"
    lines: list[str] = []
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        with node_lock(lock, purpose="other tests", lasting=False, progress=ignore):
            held.set()
            release.wait(timeout=10)

    other = threading.Thread(target=hold)
    other.start()
    held.wait(timeout=10)

    def note(line: str) -> None:
        lines.append(line)
        release.set()

    with node_lock(lock, purpose="tests", lasting=False, progress=note):
        assert json.loads(lock.read_text())["purpose"] == "tests"
    other.join()
    assert lines == [f"waiting for the node, in use by other tests (pid {os.getpid()})"]


def test_waiting_has_an_end(tmp_path: Path) -> None:
    lock = tmp_path / "node.lock"
    started = time.monotonic()
    with (
        node_lock(lock, purpose="other tests", lasting=False, progress=ignore),
        pytest.raises(Unavailable, match="was in use for 0 s by other tests"),
        node_lock(lock, purpose="tests", lasting=False, progress=ignore, patience=0.1),
    ):
        pass
    assert time.monotonic() - started < 5


def test_pods_of_another_kubelet_are_noticed(tmp_path: Path) -> None:
    group = tmp_path / "memory" / "kubepods" / "burstable" / "pod1"
    group.mkdir(parents=True)
    check_no_other_kubelet(tmp_path)
    (group / "cgroup.procs").write_text("4711\n")
    with pytest.raises(Unavailable, match="another kubelet"):
        check_no_other_kubelet(tmp_path)


def test_empty_groups_are_removed_with_all_below(tmp_path: Path) -> None:
    for controller in ("memory", "cpu"):
        (tmp_path / controller / "kubepods" / "burstable" / "pod1").mkdir(parents=True)
    (tmp_path / "memory" / "system").mkdir()
    remove_pod_groups(tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["cpu", "memory", "system"]


def test_missing_packages_are_named_with_the_command_that_brings_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    needs = [SystemProgram(package=name, is_there=lambda: False) for name in ("runc", "containerd")]
    with pytest.raises(Unavailable, match="as root: apt-get install containerd runc"):
        ensure(needs, purpose="a node", progress=ignore)


def test_nothing_is_installed_when_all_is_there() -> None:
    ensure([SystemProgram(package="x", is_there=lambda: True)], purpose="a node", progress=ignore)
