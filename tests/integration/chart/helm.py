"""Runs helm on the project's chart."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.client import ClusterClient

CHART = Path(__file__).parents[3] / "charts/tandem"
HELM_SECONDS = 600.0


def helm(cluster: ClusterClient, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Runs helm as the cluster's administrator; its error text is in the AssertionError when it fails."""
    command = [str(cluster.bin("helm")), f"--kubeconfig={cluster.kubeconfig}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=HELM_SECONDS)
    assert not check or done.returncode == 0, f"helm {' '.join(arguments)}:\n{done.stderr}"
    return done


def render(cluster: ClusterClient, *arguments: str, release: str = "tandem", namespace: str = "default") -> str:
    """The chart's objects as one YAML text, for the version of the rig's API server."""
    version = _server_version(cluster)
    options = (f"--namespace={namespace}", f"--kube-version={version}")
    return helm(cluster, "template", release, str(CHART), *options, *arguments).stdout


def objects(text: str) -> list[dict[str, Any]]:
    """The documents of a rendered chart."""
    return [document for document in yaml.load_all(text, yaml.CSafeLoader) if document]


def by_kind(text: str, kind: str) -> list[dict[str, Any]]:
    """The documents of one kind."""
    return [document for document in objects(text) if document["kind"] == kind]


def _server_version(cluster: ClusterClient) -> str:
    return str(yaml.safe_load(cluster.kubectl("version", "--output=yaml").stdout)["serverVersion"]["gitVersion"])
