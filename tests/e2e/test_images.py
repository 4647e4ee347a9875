"""What the project's Dockerfile makes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.cluster.kind import KindCluster
from tests.cluster.project_images import DOCKERFILE, ROOT
from tests.e2e.release import OPERATOR_IMAGE, SERVER_IMAGE
from tests.e2e.workspace import RESTRICTED, Cluster

pytestmark = pytest.mark.e2e

CONTEXT = ("operator", "inference_image", "edge", "templates", "rules", "crds")
FILES = (
    "pyproject.toml",
    "constraints.txt",
    "images/torch-constraints.txt",
    "images/install.sh",
    "README.md",
    ".dockerignore",
)


def run_in(cluster: Cluster, namespace: str, image: str, *command: str) -> str:
    """The log of a restricted pod that runs a command to its end, successful or not."""
    name = "run"
    container = {"name": name, "image": image, "imagePullPolicy": "Never", "securityContext": RESTRICTED}
    spec = {
        "restartPolicy": "Never",
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [{**container, "command": list(command)}],
    }
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}
    cluster.kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted", "--overwrite")
    cluster.kubectl("create", "--namespace", namespace, "--filename=-", input=json.dumps(pod))
    finished = "--for=jsonpath={.status.containerStatuses[0].state.terminated}"
    cluster.kubectl("wait", finished, f"pod/{name}", "--namespace", namespace, "--timeout=60s")
    return cluster.kubectl("logs", name, "--namespace", namespace).stdout


def test_operator_image_has_the_command_and_no_torch(node_cluster: Cluster, images: None, node_namespace: str) -> None:
    script = "id -u; tandem --version; python -c 'import torch'; python -c 'import tandem_serve'; touch /app/x"
    lines = run_in(node_cluster, node_namespace, OPERATOR_IMAGE, "sh", "-c", f"exec 2>&1; {script}")
    assert lines.startswith("10001\ntandem, version 0.1.0\n")
    assert "No module named 'torch'" in lines
    assert "No module named 'tandem_serve'" in lines
    assert "Read-only file system" in lines


def test_server_image_serves_and_has_torch(node_cluster: Cluster, images: None, node_namespace: str) -> None:
    user, ones = "import getpass; print(getpass.getuser())", "import torch; print(torch.ones(2).sum().item())"
    script = f"python -c '{user}'; python -c '{ones}'; tandem-serve --help"
    lines = run_in(node_cluster, node_namespace, SERVER_IMAGE, "sh", "-c", script).splitlines()
    assert lines[:2] == ["tandem", "2.0"]
    assert any("--role" in line for line in lines)


def test_change_of_the_application_leaves_the_big_layers_as_they_are(
    node_cluster: Cluster, images: None, tmp_path: Path
) -> None:
    if isinstance(node_cluster, KindCluster):
        pytest.skip("Docker keeps its layers for itself")
    for name in CONTEXT:
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "images").mkdir()
    for name in FILES:
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "inference_image/tandem_serve/changed.py").write_text(f"CHANGED = {tmp_path.name!r}\n")
    tag = "localhost/tandem-server:changed"
    before = node_cluster.builder.layers(SERVER_IMAGE)
    node_cluster.builder.build(
        context=tmp_path,
        dockerfile=DOCKERFILE,
        target="server",
        tag=tag,
        build_args={"BASE": node_cluster.base_image()},
    )
    after = node_cluster.builder.layers(tag)
    assert len(after) == len(before)
    assert after[:-1] == before[:-1]
    assert after[-1] != before[-1]
