"""One installation and one namespace for most tests: a node, two images and a model are made once per session."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.model import ensure_model
from tests.e2e.release import Release, build_images
from tests.e2e.workspace import MODEL_PATH, Cluster, Workspace


@pytest.fixture(scope="session")
def images(node_cluster: Cluster) -> None:
    """The project's two images, on the node."""
    build_images(node_cluster)


@pytest.fixture(scope="session")
def model_volume(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the demo's model at `demo`, readable by every user."""
    volume = tmp_path_factory.mktemp("volume")
    shutil.copytree(ensure_model(), volume / MODEL_PATH)
    for path in (volume, *volume.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return volume


@pytest.fixture(scope="session")
def release(node_cluster: Cluster, images: None) -> Release:
    """Tandem, installed by its chart for the whole cluster."""
    found = Release(node_cluster)
    found.install()
    return found


@pytest.fixture(scope="session")
def workspace(node_cluster: Cluster, release: Release, model_volume: Path) -> Workspace:
    """A namespace with the model and a client."""
    found = Workspace(node_cluster, "team-a")
    found.prepare(model_volume)
    return found


@pytest.fixture(autouse=True)
def operator_log(request: pytest.FixtureRequest) -> Iterator[None]:
    """Adds the operator's log to the report of a test that failed."""
    yield
    report = getattr(request.node, "rep_call", None)
    if report is not None and report.failed and "release" in request.fixturenames:
        print(request.getfixturevalue("release").logs()[-8000:])


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    setattr(item, f"rep_{report.when}", report)
