"""A control plane with the CRDs, and one operator for the tests that only need it to be there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.control_plane import ControlPlane
from tests.integration.controller.api import Api
from tests.integration.controller.node import ToldNode
from tests.integration.controller.process import ROOT, OperatorProcess
from tests.integration.controller.space import Space

USER = "tandem-operator"
Start = Callable[..., OperatorProcess]


@pytest.fixture(scope="session")
def plane(control_plane: ControlPlane) -> ControlPlane:
    """A control plane that knows the custom resources."""
    install_crds(control_plane)
    return control_plane


def install_crds(plane: ControlPlane) -> None:
    """Installs the CRDs and waits until they are served."""
    crds = str(ROOT / "crds")
    plane.kubectl("apply", "--server-side", "--force-conflicts", "--filename", crds)
    plane.kubectl("wait", "--for=condition=Established", "--timeout=30s", "--filename", crds)


@pytest.fixture(scope="session")
def api(plane: ControlPlane) -> Api:
    """The API server, as its administrator."""
    return Api(plane.kubeconfig)


@pytest.fixture
def space(api: Api, namespace: str) -> Space:
    """A fresh namespace."""
    return Space(api, namespace)


@pytest.fixture
def start(plane: ControlPlane, tmp_path: Path) -> Iterator[Start]:
    """Starts operators of the test's own; what still runs at its end is killed."""
    started: list[OperatorProcess] = []

    def start(*, user: str = USER, wait: bool = True, kubeconfig: Path | None = None, **fields: Any) -> OperatorProcess:
        process = OperatorProcess(
            kubeconfig or plane.kubeconfig_for(user, ["system:masters"]), tmp_path / f"{user}.log", **fields
        )
        started.append(process)
        return process.start(wait=wait)

    yield start
    for process in started:
        if process.handle.poll() is None:
            process.kill()


@pytest.fixture(scope="module")
def operator(plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OperatorProcess]:
    """An operator for the whole cluster, for all tests of a module that only need it to be there."""
    log = tmp_path_factory.mktemp("operator") / "operator.log"
    process = OperatorProcess(plane.kubeconfig_for(USER, ["system:masters"]), log).start()
    yield process
    status = process.stop()
    text = log.read_text(errors="replace")
    assert status == 0, text[-4000:]
    assert "a bug in the operator" not in text, text[-4000:]
    assert "Traceback" not in text, text[-4000:]


@pytest.fixture
def node(api: Api) -> Iterator[ToldNode]:
    """A node on which every pod is ready at once, unless the test says otherwise."""
    with ToldNode(api) as told:
        yield told
