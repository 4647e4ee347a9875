"""Configuration files of the node's programs, as text. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.machine import NODE_ADDRESS, NODE_POD_CIDR
from tests.cluster.packages import CNI_PLUGINS

CLUSTER_DOMAIN = "cluster.local"
DNS_READY_PORT = 8181


@dataclass(frozen=True)
class NodeFolders:
    """Where things of the node lie: `kept` outlives the run (images), `run` does not."""

    kept: Path
    run: Path

    @property
    def socket(self) -> Path:
        """Containerd's address."""
        return self.run / "containerd.sock"

    @property
    def cni(self) -> Path:
        """The folder with the pod network's configuration."""
        return self.run / "cni"


def containerd_config(folders: NodeFolders, *, pause_tag: str) -> str:
    """The container runtime: own root, state and socket, so that a runtime of the host's is not disturbed."""
    return f"""\
version = 2
root = "{folders.kept / "containerd"}"
state = "/run/containerd"
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs"]

[grpc]
address = "{folders.socket}"

[plugins."io.containerd.internal.v1.opt"]
path = "{folders.run / "opt"}"

[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{pause_tag}"
# Lowering a process's out-of-memory score is refused where the rig itself runs in a container.
restrict_oom_score_adj = true

[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{CNI_PLUGINS}"
conf_dir = "{folders.cni}"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
"""


def cni_config() -> str:
    """The pod network. Each pod has a link of its own to the node, so all traffic passes the rules of Services.

    (On a bridge, traffic between two pods would pass them only with a certain kernel module.)
    """
    routes = [{"dst": "0.0.0.0/0"}]
    network = {
        "cniVersion": "0.4.0",
        "name": "tandem",
        "plugins": [
            {
                "type": "ptp",
                "ipMasq": False,
                "ipam": {"type": "host-local", "ranges": [[{"subnet": NODE_POD_CIDR}]], "routes": routes},
            },
            {"type": "portmap", "capabilities": {"portMappings": True}},
        ],
    }
    return json.dumps(network, indent=2)


def kubelet_config(folders: NodeFolders, *, client_authority: Path) -> str:
    """kubelet: cluster DNS on the node's address, and no deleting of images or pods because a disk is rather full."""
    config: dict[str, Any] = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(client_authority)},
        },
        "authorization": {"mode": "Webhook"},
        "containerRuntimeEndpoint": f"unix://{folders.socket}",
        "cgroupDriver": "cgroupfs",
        "failSwapOn": False,
        "failCgroupV1": False,
        "localStorageCapacityIsolation": False,
        "clusterDNS": [NODE_ADDRESS],
        "clusterDomain": CLUSTER_DOMAIN,
        "resolvConf": str(folders.run / "resolv.conf"),
        "podLogsDir": str(folders.run / "pod-logs"),
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        "serializeImagePulls": False,
        "nodeStatusUpdateFrequency": "5s",
    }
    return yaml.safe_dump(config)


def corefile(*, kubeconfig: Path, context: str) -> str:
    """Cluster DNS. Names outside the cluster do not exist: tests talk to nobody else."""
    return f"""\
.:53 {{
    bind {NODE_ADDRESS}
    errors
    ready {NODE_ADDRESS}:{DNS_READY_PORT}
    kubernetes {CLUSTER_DOMAIN} in-addr.arpa {{
        kubeconfig {kubeconfig} {context}
        pods insecure
        ttl 1
    }}
}}
"""
