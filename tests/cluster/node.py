"""A control plane with one real node: containerd, kubelet, kube-proxy, pod network, cluster DNS. Needs root."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.cluster import node_files
from tests.cluster.binaries import CONTROL_PLANE_PROGRAMS, NODE_PROGRAMS, Binaries, Progress, cache_root
from tests.cluster.cgroups import check_no_other_kubelet, remove_pod_groups
from tests.cluster.control_plane import POD_CIDR, SERVICE_CIDR, START_TIMEOUT, ControlPlane
from tests.cluster.errors import RigError, Unavailable
from tests.cluster.image_builder import ImageBuilder
from tests.cluster.images import ImageSettings, ImageStore, write_image_archive
from tests.cluster.kubeconfig import CONTEXT
from tests.cluster.machine import (
    HOST_ADDRESS,
    NODE_ADDRESS,
    NODE_POD_CIDR,
    Machine,
    check_addresses_are_free,
    remove_link,
    run,
)
from tests.cluster.node_files import NodeFolders
from tests.cluster.node_lock import node_lock
from tests.cluster.packages import NODE_NEEDS, ensure, find_program
from tests.cluster.processes import wait_until
from tests.cluster.rundir import RunDirectory, sweep

NODE_NAME = "node1"
# One for the whole computer, whatever folders its users chose.
LOCK = Path("/run/lock/tandem-node.lock")
PAUSE_SOURCE = Path(__file__).parent / "pause" / "pause.c"


class NodeCluster(ControlPlane):
    """A control plane with a node on which pods run; see `running_node_cluster`.

    `node_name` and `pod_cidr` are the node's. Pod and Service addresses can be reached from this computer. Images are
    never pulled: import or build them, and let pods use `imagePullPolicy: Never` or `IfNotPresent`.
    """

    node_name = NODE_NAME
    pod_cidr = NODE_POD_CIDR
    reaches_pods = True

    def __init__(self, *, binaries: Binaries, directory: RunDirectory, kept: Path) -> None:
        """Writes configuration; starts nothing. `kept` is the folder for what outlives the run."""
        self._node_programs = binaries.get_all(NODE_PROGRAMS)
        self._kept = kept
        self._folders = NodeFolders(kept=kept, run=directory.path)
        self._pause = compile_pause(kept)
        self._pause_tag = f"localhost/tandem-pause:{self._pause.parent.name}"
        super().__init__(binaries=binaries, directory=directory, host=HOST_ADDRESS)
        self._machine = Machine(processes=self.processes, directory=directory, pause=self._pause)
        self.images = image_store(self.socket)
        self.builder = image_builder(kept, binaries.progress)
        self._write_node_files()

    @property
    def socket(self) -> Path:
        """The container runtime's address."""
        return self._folders.socket

    def start_machine(self) -> None:
        """Makes the namespaces and the network; the API server's address exists from then on."""
        self._machine.start(routes=[NODE_POD_CIDR, SERVICE_CIDR])

    def start_node(self) -> None:
        """Starts what makes the node; returns when it is Ready. The control plane must be up. Raises RigError."""
        self._start_containerd()
        self._start_inside("kubelet", self._kubelet_command())
        self._start_inside("kube-proxy", self._kube_proxy_command())
        self._start_inside("coredns", ["-conf", str(self.directory.path / "Corefile")])
        timeout = f"--timeout={START_TIMEOUT:.0f}s"
        try:
            self.kubectl("wait", "--for=create", f"node/{NODE_NAME}", timeout)
            self.kubectl("wait", "--for=condition=Ready", f"node/{NODE_NAME}", timeout)
        except RigError as error:
            raise RigError(
                f"the node does not get Ready: {error}\n{self.processes.get('kubelet').log_tail()}"
            ) from error
        wait_until(
            _dns_is_ready, what="cluster DNS is ready", timeout=START_TIMEOUT, process=self.processes.get("coredns")
        )

    def base_image(self) -> str:
        """The tag of an image with Python for `build_image` to start from; made when missing (minutes)."""
        return self.builder.base_image()

    def import_image(self, archive: Path) -> list[str]:
        """Imports a docker-archive, unless its content is there already; returns the image names in it."""
        return self.images.import_archive(archive)

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

        Nothing can be pulled: give the base by a build argument, usually `base_image()`. What is unchanged is
        neither built nor imported again. Returns `tag`. Raises Unavailable, RigError.
        """
        image_id = self.builder.build(
            context=context,
            dockerfile=dockerfile or context / "Dockerfile",
            tag=tag,
            build_args=build_args or {},
            target=target,
        )
        self.builder.send(image_id=image_id, tag=tag, store=self.images)
        return tag

    def node_command(self, *command: str) -> str:
        """Runs a command inside the node's namespaces and returns its output. Raises RigError."""
        return run(self._machine.command(command))

    def _start_inside(self, name: str, arguments: list[str]) -> None:
        self.processes.start(name, self._machine.command([str(self._node_programs[name]), *arguments]))

    def _start_containerd(self) -> None:
        root = self._kept / "containerd"
        # What the last run's pods left in the records; the images stay.
        shutil.rmtree(root / "io.containerd.grpc.v1.cri", ignore_errors=True)
        command = [find_program("containerd") or "containerd", "--config", str(self._config("containerd.toml"))]
        process = self.processes.start("containerd", self._machine.command(command))
        listing = [*self.images.ctr, "containers", "list", "--quiet"]
        wait_until(
            lambda: subprocess.run(listing, capture_output=True, check=False).returncode == 0,
            what="containerd answers",
            timeout=START_TIMEOUT,
            process=process,
        )
        if leftovers := run(listing).split():
            run([*self.images.ctr, "containers", "delete", *leftovers])
        self.images.remove_replaced()
        self.import_image(self._pause.parent / "image.tar")

    def _config(self, name: str) -> Path:
        return self.directory.path / name

    def _write_node_files(self) -> None:
        self._folders.cni.mkdir()
        kubelet = node_files.kubelet_config(self._folders, client_authority=self._pki / "ca.crt")
        dns_user = self.kubeconfig_for("coredns", ["system:masters"])
        files = {
            "containerd.toml": node_files.containerd_config(self._folders, pause_tag=self._pause_tag),
            "cni/10-tandem.conflist": node_files.cni_config(),
            "kubelet.yaml": kubelet,
            "Corefile": node_files.corefile(kubeconfig=dns_user, context=CONTEXT),
            # Pods see cluster DNS alone, not the host's resolvers and search list.
            "resolv.conf": "",
        }
        for name, content in files.items():
            self._config(name).write_text(content)

    def _kubelet_command(self) -> list[str]:
        return [
            f"--config={self._config('kubelet.yaml')}",
            f"--kubeconfig={self.kubeconfig_for(f'system:node:{NODE_NAME}', ['system:nodes'])}",
            f"--root-dir={self.directory.path / 'kubelet'}",
            f"--hostname-override={NODE_NAME}",
            f"--node-ip={NODE_ADDRESS}",
        ]

    def _kube_proxy_command(self) -> list[str]:
        return [
            f"--kubeconfig={self.kubeconfig_for('system:kube-proxy')}",
            f"--hostname-override={NODE_NAME}",
            "--proxy-mode=iptables",
            f"--cluster-cidr={POD_CIDR}",
            # On a small node a new endpoint can be written at once; the default collects changes for a second.
            "--iptables-min-sync-period=50ms",
            # Settings of the connection table belong to the host: leave them as they are.
            "--conntrack-max-per-core=0",
            "--conntrack-tcp-timeout-established=0",
            "--conntrack-tcp-timeout-close-wait=0",
        ]


def kept_folder() -> Path:
    """Where a user's node keeps what outlives its runs: images, and the steps of their builds."""
    return cache_root(os.environ) / "node"


def image_store(socket: Path) -> ImageStore:
    """The images of the container runtime at `socket`, as kubelet sees them."""
    return ImageStore(ctr=(find_program("ctr") or "ctr", f"--address={socket}", "--namespace=k8s.io"))


def image_builder(kept: Path, progress: Progress) -> ImageBuilder:
    """Builds images with steps kept below the folder `kept`."""
    return ImageBuilder(folder=kept / "buildah", progress=progress)


def compile_pause(folder: Path) -> Path:
    """Compiles the program that waits, and its image beside it, unless they are there. Raises RigError."""
    key = hashlib.sha256(PAUSE_SOURCE.read_bytes()).hexdigest()[:12]
    target = folder / "pause" / key / "pause"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = target.with_suffix(".new")
        run(["gcc", "-O2", "-static", "-s", "-o", str(scratch), str(PAUSE_SOURCE)])
        write_image_archive(
            target.parent / "image.tar",
            tag=f"localhost/tandem-pause:{key}",
            files={"/pause": scratch},
            machine=platform.machine(),
            settings=ImageSettings(command=["/pause"]),
        )
        scratch.rename(target)
    return target


@contextmanager
def running_node_cluster(binaries: Binaries, *, purpose: str, lasting: bool = False) -> Iterator[NodeCluster]:
    """A control plane with a node for as long as the context lasts; one at a time on a computer.

    `purpose` tells others who holds the node; `lasting` that a person will end it, so waiting makes no sense. Raises
    Unavailable when this computer cannot run it, RigError when it does not start.
    """
    if os.geteuid() != 0:
        raise Unavailable("a node needs root")
    ensure(NODE_NEEDS, purpose="a node", progress=binaries.progress)
    binaries.get_all((*CONTROL_PLANE_PROGRAMS, *NODE_PROGRAMS))
    with node_lock(LOCK, purpose=purpose, lasting=lasting, progress=binaries.progress):
        sweep()
        remove_link()
        check_addresses_are_free([POD_CIDR, SERVICE_CIDR])
        check_no_other_kubelet()
        remove_pod_groups()
        with RunDirectory.create(prefix="node") as directory:
            cluster = NodeCluster(binaries=binaries, directory=directory, kept=kept_folder())
            try:
                cluster.start_machine()
                cluster.start()
                cluster.start_node()
                yield cluster
            finally:
                cluster.processes.stop_all()
                remove_link()
                remove_pod_groups()


def _dns_is_ready() -> bool:
    url = f"http://{NODE_ADDRESS}:{node_files.DNS_READY_PORT}/ready"
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            return bool(response.status == 200)
    except urllib.error.HTTPError:
        return False
