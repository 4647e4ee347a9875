"""kind in place of the rig's own node: where that cannot run, but a Docker engine and kind are at hand.

It needs neither root nor a build. What it cannot do: its API server writes no audit log for tests and is not
restarted, and pods and Services are reached through `kubectl port-forward` or `exec`, not by address.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import yaml

from tests.cluster.binaries import Binaries
from tests.cluster.client import ClusterClient
from tests.cluster.errors import RigError
from tests.cluster.images import archive_tags
from tests.cluster.kubeconfig import user_file_name
from tests.cluster.machine import run
from tests.cluster.pki import write_secret

CLUSTER_NAME = "tandem-tests"
BASE_IMAGE = "python:3.12-slim"
_PROBE_TIMEOUT = 20


def kind_is_usable() -> bool:
    """Whether both kind and an answering Docker engine are here."""
    if shutil.which("kind") is None or shutil.which("docker") is None:
        return False
    try:
        engine = subprocess.run(["docker", "info"], capture_output=True, check=False, timeout=_PROBE_TIMEOUT)
    except subprocess.TimeoutExpired:
        return False
    return engine.returncode == 0


class KindCluster(ClusterClient):
    """A cluster in a Docker container, with the node-related part of `NodeCluster`'s methods."""

    node_name = f"{CLUSTER_NAME}-control-plane"
    reaches_pods = False

    @property
    def pod_cidr(self) -> str:
        """The addresses of the node's pods."""
        return str(self.get("node", self.node_name)["spec"]["podCIDR"])

    def kubeconfig_for(self, user: str, groups: Iterable[str] = ()) -> Path:
        """A kubeconfig that acts as any user; what it may do is up to RBAC."""
        config = yaml.safe_load(self.kubeconfig.read_text())
        config["users"][0]["user"] |= {"as": user, "as-groups": list(groups)}
        path = self._folder / user_file_name(user)
        write_secret(path, yaml.safe_dump(config).encode())
        return path

    def base_image(self) -> str:
        """The image that `build_image` starts from; Docker pulls it."""
        return BASE_IMAGE

    def import_image(self, archive: Path) -> list[str]:
        """Imports a docker-archive; returns the image names in it."""
        run(["kind", "load", "image-archive", str(archive), "--name", CLUSTER_NAME])
        return archive_tags(archive)

    def build_image(
        self,
        *,
        context: Path,
        tag: str,
        dockerfile: Path | None = None,
        build_args: Mapping[str, str] | None = None,
        target: str = "",
    ) -> str:
        """Builds a stage (default: the last) of a Dockerfile (default: the one in `context`) and imports it as `tag`.

        Returns `tag`. Raises RigError.
        """
        arguments = [f"--build-arg={name}={value}" for name, value in (build_args or {}).items()]
        arguments += [f"--target={target}"] if target else []
        file = dockerfile or context / "Dockerfile"
        run(["docker", "build", f"--file={file}", f"--tag={tag}", *arguments, str(context)])
        run(["kind", "load", "docker-image", tag, "--name", CLUSTER_NAME])
        return tag


@contextmanager
def running_kind_cluster(binaries: Binaries) -> Iterator[KindCluster]:
    """A kind cluster for as long as the context lasts. Raises RigError when there is one of that name already."""
    with tempfile.TemporaryDirectory(prefix="tandem-kind-") as folder:
        kubeconfig = Path(folder) / "admin.kubeconfig"
        if CLUSTER_NAME in run(["kind", "get", "clusters"]).split():
            raise RigError(f"a kind cluster {CLUSTER_NAME} is there already; kind delete cluster --name {CLUSTER_NAME}")
        try:
            create = ["kind", "create", "cluster", "--name", CLUSTER_NAME, "--wait=120s"]
            run([*create, f"--kubeconfig={kubeconfig}"])
            yield KindCluster(binaries=binaries, kubeconfig=kubeconfig, folder=Path(folder))
        finally:
            run(["kind", "delete", "cluster", "--name", CLUSTER_NAME, f"--kubeconfig={kubeconfig}"])
