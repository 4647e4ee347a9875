"""How kind and Docker are driven where they stand in for the rig's node."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.cluster.binaries import Binaries
from tests.cluster.errors import RigError
from tests.cluster.kind import CLUSTER_NAME, kind_is_usable, running_kind_cluster

KUBECONFIG = {
    "clusters": [
        {
            "name": "kind",
            "cluster": {
                "server": "https://127.0.0.1:1",
                "certificate-authority-data": base64.b64encode(b"ca").decode(),
            },
        }
    ],
    "users": [{"name": "kind", "user": {"client-certificate-data": "Yw==", "client-key-data": "aw=="}}],
}
PROGRAM = """#!/bin/sh
echo "$(basename "$0") $*" >> {folder}/calls
case "$*" in
    info) exit {engine} ;;
    "get clusters") cat {folder}/clusters ;;
    "create cluster"*) for last; do :; done; cp {folder}/kubeconfig "${{last#--kubeconfig=}}" ;;
esac
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Puts both programs, which write down how they are called, into the search path."""

    def put(*, engine: int = 0, clusters: str = "") -> Path:
        (tmp_path / "kubeconfig").write_text(json.dumps(KUBECONFIG))
        (tmp_path / "clusters").write_text(clusters)
        for name in ("kind", "docker"):
            (tmp_path / name).write_text(PROGRAM.format(folder=tmp_path, engine=engine))
            (tmp_path / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
        return tmp_path / "calls"

    return put


def calls(record: Path) -> list[str]:
    return record.read_text().splitlines()


def binaries(tmp_path: Path) -> Binaries:
    return Binaries(cache=tmp_path / "cache")


def test_it_is_usable_with_both_programs_and_an_engine(install: Callable[..., Path]) -> None:
    install()
    assert kind_is_usable()


def test_it_is_not_without_an_engine_that_answers(install: Callable[..., Path]) -> None:
    install(engine=1)
    assert not kind_is_usable()


def test_a_cluster_is_made_and_deleted(install: Callable[..., Path], tmp_path: Path) -> None:
    record = install()
    with running_kind_cluster(binaries(tmp_path)) as cluster:
        assert cluster.url == "https://127.0.0.1:1"
        config = yaml.safe_load(cluster.kubeconfig_for("jane", ["team"]).read_text())
        assert config["users"][0]["user"]["as"] == "jane"
        assert config["users"][0]["user"]["as-groups"] == ["team"]
    names = [" ".join(call.split()[:5]) for call in calls(record)]
    assert names == [
        "kind get clusters",
        f"kind create cluster --name {CLUSTER_NAME}",
        f"kind delete cluster --name {CLUSTER_NAME}",
    ]


def test_an_image_is_built_and_loaded(install: Callable[..., Path], tmp_path: Path) -> None:
    record = install()
    with running_kind_cluster(binaries(tmp_path)) as cluster:
        file = tmp_path / "Dockerfile"
        tag = cluster.build_image(
            context=tmp_path, dockerfile=file, tag="localhost/a:1", build_args={"BASE": "b"}, target="a"
        )
    assert tag == "localhost/a:1"
    assert f"docker build --file={file} --tag={tag} --build-arg=BASE=b --target=a {tmp_path}" in calls(record)
    assert f"kind load docker-image {tag} --name {CLUSTER_NAME}" in calls(record)


def test_a_cluster_of_that_name_is_left_alone(install: Callable[..., Path], tmp_path: Path) -> None:
    record = install(clusters=f"{CLUSTER_NAME}\n")
    with pytest.raises(RigError, match="is there already"), running_kind_cluster(binaries(tmp_path)):
        pass
    assert not [call for call in calls(record) if "delete" in call]
