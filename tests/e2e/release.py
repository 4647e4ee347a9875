"""Installs Tandem by its chart on the rig's node, from images built of the project's Dockerfile."""

from __future__ import annotations

from dataclasses import dataclass

from tests.cluster.node import NodeCluster
from tests.cluster.project_images import build_project_images, image_tag
from tests.integration.chart.helm import CHART, helm

NAMESPACE = "tandem-system"
NAME = "tandem"
TAG = "e2e"
OPERATOR_IMAGE = image_tag("operator", TAG)
SERVER_IMAGE = image_tag("server", TAG)


def build_images(cluster: NodeCluster) -> None:
    """Builds both images; what did not change since the last time is neither built nor imported again."""
    build_project_images(cluster.build_image, base=cluster.base_image(), tag=TAG)


@dataclass(frozen=True)
class Release:
    """An installation of the chart."""

    cluster: NodeCluster
    name: str = NAME
    namespace: str = NAMESPACE

    @property
    def user(self) -> str:
        """The name under which the API server knows the operator."""
        return f"system:serviceaccount:{self.namespace}:{self.name}"

    def install(self, *settings: str) -> None:
        """`helm install` into a namespace that refuses pods which are not restricted; waits for the operator's pods."""
        make_namespace(self.cluster, self.namespace)
        installed = helm(
            self.cluster,
            *("install", self.name, str(CHART), f"--namespace={self.namespace}", "--wait", "--timeout=90s"),
            *(f"--set={setting}" for setting in (*self._image_settings(), *settings)),
            check=False,
        )
        assert installed.returncode == 0, f"{installed.stderr}\n{self.describe()}"

    def uninstall(self) -> None:
        """`helm uninstall`, waiting until the operator's pods are gone."""
        helm(self.cluster, "uninstall", self.name, f"--namespace={self.namespace}", "--wait", "--timeout=120s")
        self.cluster.kubectl(
            *("wait", "--for=delete", "pods", f"--namespace={self.namespace}", "--timeout=60s"),
            f"--selector=app.kubernetes.io/instance={self.name}",
        )

    def describe(self) -> str:
        """The release's namespace and its operator's words, for the message of a test that failed."""
        wide = self.cluster.kubectl("get", "pods,events", f"--namespace={self.namespace}", "--output=wide", check=False)
        return f"{wide.stdout}\n{self.logs()}"

    def logs(self) -> str:
        """What the operator's pods wrote, for the message of a test that failed."""
        selector = f"--selector=app.kubernetes.io/instance={self.name},app.kubernetes.io/component=operator"
        arguments = ("logs", f"--namespace={self.namespace}", selector, "--tail=200", "--prefix")
        return self.cluster.kubectl(*arguments, check=False).stdout

    @staticmethod
    def _image_settings() -> tuple[str, ...]:
        repository, tag = OPERATOR_IMAGE.rsplit(":", 1)
        return (
            f"image.repository={repository}",
            f"image.tag={tag}",
            "image.pullPolicy=Never",
            f"workerImages.torch={SERVER_IMAGE}",
        )


def make_namespace(cluster: NodeCluster, name: str) -> None:
    """A namespace that refuses pods below the restricted Pod Security Standard; nothing if it exists."""
    if cluster.kubectl("get", "namespace", name, check=False).returncode == 0:
        return
    cluster.kubectl("create", "namespace", name)
    cluster.kubectl("label", "namespace", name, "pod-security.kubernetes.io/enforce=restricted")
    cluster.kubectl("wait", "--for=create", "serviceaccount/default", f"--namespace={name}", "--timeout=120s")
