"""Pytest fixtures: a control plane, a control plane with a node, and namespaces in both.

Use with `pytest_plugins = ["tests.cluster.fixtures"]`. What cannot run on this machine is skipped with the reason.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterator

import pytest

from tests.cluster.binaries import Binaries, print_progress
from tests.cluster.client import ClusterClient
from tests.cluster.control_plane import ControlPlane, running_control_plane
from tests.cluster.errors import Unavailable
from tests.cluster.kind import KindCluster, kind_is_usable, running_kind_cluster
from tests.cluster.node import NodeCluster, running_node_cluster


@pytest.fixture(scope="session")
def cluster_progress(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Prints a line past pytest's capture: a build of minutes in silence would look like a hang."""
    capture = request.config.pluginmanager.getplugin("capturemanager")

    def show(line: str) -> None:
        if capture is None:
            print_progress(line)
            return
        with capture.global_and_fixture_disabled():
            print_progress(line)

    return show


@pytest.fixture(scope="session")
def cluster_binaries(cluster_progress: Callable[[str], None]) -> Binaries:
    """The rig's programs (kubectl, helm, kubeconform…) by name."""
    return Binaries.from_environment(progress=cluster_progress)


@pytest.fixture(scope="session")
def control_plane(cluster_binaries: Binaries) -> Iterator[ControlPlane]:
    """A real API server with etcd, controllers and scheduler, on loopback, without a node."""
    try:
        with running_control_plane(cluster_binaries) as plane:
            yield plane
    except Unavailable as error:
        pytest.skip(f"no control plane: {error.reason}")


@pytest.fixture
def namespace(control_plane: ControlPlane, request: pytest.FixtureRequest) -> Iterator[str]:
    """A fresh namespace of `control_plane`, deleted after the test."""
    yield from _namespace(control_plane, request.node.name)


def _namespace(cluster: ClusterClient, test_name: str) -> Iterator[str]:
    readable = re.sub(r"[^a-z0-9]+", "-", test_name.lower()).strip("-")[:40].strip("-")
    name = f"{readable}-{secrets.token_hex(3)}"
    cluster.kubectl("create", "namespace", name)
    # Pods of a namespace are refused until it has this account.
    cluster.kubectl("wait", "--for=create", "serviceaccount/default", f"--namespace={name}", "--timeout=120s")
    yield name
    cluster.kubectl("delete", "namespace", name, "--wait=false", check=False)


@pytest.fixture(scope="session")
def node_cluster(cluster_binaries: Binaries) -> Iterator[NodeCluster | KindCluster]:
    """A control plane of its own with one real node. One at a time on a computer: other test sessions wait.

    Where the rig's node cannot run but kind can, kind serves; tests that reach pods by address look at `reaches_pods`.
    """
    try:
        with running_node_cluster(cluster_binaries, purpose="a test session") as cluster:
            yield cluster
            return
    except Unavailable as error:
        if not kind_is_usable():
            pytest.skip(f"no node: {error.reason}")
    with running_kind_cluster(cluster_binaries) as cluster:
        yield cluster


@pytest.fixture
def node_namespace(node_cluster: NodeCluster | KindCluster, request: pytest.FixtureRequest) -> Iterator[str]:
    """A fresh namespace of `node_cluster`, deleted after the test."""
    yield from _namespace(node_cluster, request.node.name)
