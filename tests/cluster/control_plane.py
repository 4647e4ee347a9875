"""A real control plane: etcd, API server, controller manager and scheduler, in a temporary folder on free ports."""

from __future__ import annotations

import ipaddress
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from tests.cluster.audit import POLICY, AuditEvent, complete_size, read_events
from tests.cluster.binaries import CONTROL_PLANE_PROGRAMS, Binaries
from tests.cluster.client import ClusterClient
from tests.cluster.kubeconfig import Endpoint, user_file_name, write_kubeconfig
from tests.cluster.pki import Authority, signing_key_pair, write_secret
from tests.cluster.ports import free_port
from tests.cluster.processes import Processes, wait_until
from tests.cluster.rundir import RunDirectory, sweep

START_TIMEOUT = 120.0
SERVICE_CIDR = "10.96.0.0/16"
KUBERNETES_SERVICE_ADDRESS = "10.96.0.1"
POD_CIDR = "10.244.0.0/16"
ISSUER = "https://kubernetes.default.svc.cluster.local"
SERVER_NAMES = (
    "localhost",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
)


@dataclass(frozen=True)
class Addresses:
    """Where the control plane listens: the API server at `host` (pods must reach it when there is a node)."""

    host: str
    api_port: int
    etcd_port: int
    etcd_peer_port: int

    @classmethod
    def pick(cls, host: str) -> Addresses:
        """Ports that are free on loopback. `host` may be an address that is yet to be made."""
        return cls(host=host, api_port=free_port(), etcd_port=free_port(), etcd_peer_port=free_port())

    @property
    def api_url(self) -> str:
        """`https://HOST:PORT` of the API server."""
        return f"https://{self.host}:{self.api_port}"

    @property
    def etcd_url(self) -> str:
        """`http://127.0.0.1:PORT` of etcd."""
        return f"http://127.0.0.1:{self.etcd_port}"


class ControlPlane(ClusterClient):
    """A control plane that runs; see `running_control_plane`. `audit_log` has its requests as JSON lines."""

    def __init__(self, *, binaries: Binaries, directory: RunDirectory, host: str = "127.0.0.1") -> None:
        """Writes certificates and configuration; starts nothing."""
        self.directory = directory
        self.processes = Processes(directory)
        self.authority = Authority()
        self.addresses = Addresses.pick(host)
        self._programs = binaries.get_all(CONTROL_PLANE_PROGRAMS)
        self._pki = directory.subdirectory("pki")
        self.audit_log = directory.path / "audit.log"
        self._write_files()
        self._kubeconfigs = directory.subdirectory("kubeconfigs")
        admin = self.kubeconfig_for("admin", ["system:masters"])
        super().__init__(binaries=binaries, kubeconfig=admin, folder=self._kubeconfigs)
        self._tls = ssl.create_default_context(cadata=self.authority.pair.certificate.decode())
        self._tls.load_cert_chain(self._pki / "probe.crt", self._pki / "probe.key")

    def start(self) -> None:
        """Starts the four programs; returns when the API server is ready and the controllers work. Raises RigError."""
        self.processes.start("etcd", self._etcd_command())
        self.start_apiserver()
        self.processes.start("kube-controller-manager", self._controller_manager_command())
        self.processes.start("kube-scheduler", self._scheduler_command())
        wait_until(
            lambda: self.answers("/api/v1/namespaces/default/serviceaccounts/default"),
            what="the controller manager makes ServiceAccounts",
            timeout=START_TIMEOUT,
            process=self.processes.get("kube-controller-manager"),
        )

    def start_apiserver(self) -> None:
        """Starts the API server (again) at its address and waits until it is ready."""
        process = self.processes.start("kube-apiserver", self._apiserver_command())
        wait_until(
            lambda: self.answers("/readyz"), what="the API server is ready", timeout=START_TIMEOUT, process=process
        )

    def stop_apiserver(self, *, grace: float = 0) -> None:
        """Ends the API server: killed, or asked and given `grace` seconds. Data and address stay."""
        self.processes.stop("kube-apiserver", grace=grace)

    def restart_apiserver(self, *, grace: float = 0) -> None:
        """Ends the API server as a crash would (grace 0) and starts it again; every connection breaks."""
        self.stop_apiserver(grace=grace)
        self.start_apiserver()

    def kubeconfig_for(self, user: str, groups: Iterable[str] = ()) -> Path:
        """A kubeconfig with a client certificate for any user; what it may do is up to RBAC."""
        endpoint = Endpoint(url=self.addresses.api_url, authority=self.authority.pair.certificate)
        path = self._kubeconfigs / user_file_name(user)
        return write_kubeconfig(path, endpoint=endpoint, credentials=self.authority.client(user, groups))

    def audit_offset(self) -> int:
        """The audit log's size now in whole lines, to read only what comes after."""
        return complete_size(self.audit_log)

    def audit_events(self, *, since: int = 0) -> list[AuditEvent]:
        """The requests on record since an `audit_offset`."""
        return read_events(self.audit_log, offset=since)

    def answers(self, path: str) -> bool:
        """Whether the API server answers a GET of `path` with 200 now. Raises OSError when it cannot be reached."""
        try:
            with urllib.request.urlopen(self.url + path, context=self._tls, timeout=5) as response:
                return bool(response.status == 200)
        except urllib.error.HTTPError:
            return False

    def _write_files(self) -> None:
        hosts = {self.addresses.host, "127.0.0.1", KUBERNETES_SERVICE_ADDRESS}
        self.authority.pair.write(self._pki, "ca")
        self.authority.server("kube-apiserver", [*SERVER_NAMES, *sorted(hosts)]).write(self._pki, "apiserver")
        self.authority.client("kube-apiserver-kubelet-client", ["system:masters"]).write(self._pki, "kubelet-client")
        self.authority.client("tandem-probe", ["system:masters"]).write(self._pki, "probe")
        private, public = signing_key_pair()
        write_secret(self._pki / "service-accounts.key", private)
        (self._pki / "service-accounts.pub").write_bytes(public)
        self._audit_policy.write_text(yaml.safe_dump(POLICY))

    @property
    def _audit_policy(self) -> Path:
        return self.directory.path / "audit-policy.yaml"

    def _etcd_command(self) -> list[str]:
        peer = f"http://127.0.0.1:{self.addresses.etcd_peer_port}"
        return [
            str(self._programs["etcd"]),
            f"--data-dir={self.directory.path / 'etcd'}",
            f"--listen-client-urls={self.addresses.etcd_url}",
            f"--advertise-client-urls={self.addresses.etcd_url}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            # The data is thrown away with the rig: it need not survive a power cut.
            "--unsafe-no-fsync",
        ]

    def _apiserver_command(self) -> list[str]:
        # Pods find the API server through the `kubernetes` Service. Its endpoint may not be a loopback address.
        loopback = ipaddress.ip_address(self.addresses.host).is_loopback
        reconciler = "none" if loopback else "lease"
        return [
            str(self._programs["kube-apiserver"]),
            f"--etcd-servers={self.addresses.etcd_url}",
            f"--bind-address={self.addresses.host}",
            f"--advertise-address={self.addresses.host}",
            f"--secure-port={self.addresses.api_port}",
            f"--endpoint-reconciler-type={reconciler}",
            f"--service-cluster-ip-range={SERVICE_CIDR}",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--allow-privileged=true",
            f"--client-ca-file={self._pki / 'ca.crt'}",
            f"--tls-cert-file={self._pki / 'apiserver.crt'}",
            f"--tls-private-key-file={self._pki / 'apiserver.key'}",
            f"--kubelet-client-certificate={self._pki / 'kubelet-client.crt'}",
            f"--kubelet-client-key={self._pki / 'kubelet-client.key'}",
            # The node's name is in no DNS; without this, exec and logs would look it up.
            "--kubelet-preferred-address-types=InternalIP",
            f"--service-account-issuer={ISSUER}",
            f"--service-account-key-file={self._pki / 'service-accounts.pub'}",
            f"--service-account-signing-key-file={self._pki / 'service-accounts.key'}",
            f"--audit-policy-file={self._audit_policy}",
            f"--audit-log-path={self.audit_log}",
            # Megabytes until a new file is begun: more than tests write, so that offsets stay valid.
            "--audit-log-maxsize=4000",
            # A restart must find its port free even while old connections linger.
            "--permit-address-sharing=true",
        ]

    def _controller_manager_command(self) -> list[str]:
        return [
            str(self._programs["kube-controller-manager"]),
            f"--kubeconfig={self.kubeconfig_for('system:kube-controller-manager')}",
            "--use-service-account-credentials=true",
            f"--service-account-private-key-file={self._pki / 'service-accounts.key'}",
            f"--root-ca-file={self._pki / 'ca.crt'}",
            f"--cluster-signing-cert-file={self._pki / 'ca.crt'}",
            f"--cluster-signing-key-file={self._pki / 'ca.key'}",
            "--allocate-node-cidrs=true",
            f"--cluster-cidr={POD_CIDR}",
            "--leader-elect=false",
            # No port of its own: nothing to clash with another rig's.
            "--secure-port=0",
        ]

    def _scheduler_command(self) -> list[str]:
        return [
            str(self._programs["kube-scheduler"]),
            f"--kubeconfig={self.kubeconfig_for('system:kube-scheduler')}",
            "--leader-elect=false",
            "--secure-port=0",
        ]


@contextmanager
def running_control_plane(binaries: Binaries) -> Iterator[ControlPlane]:
    """A control plane on loopback for as long as the context lasts; several may run at once on one machine.

    Raises Unavailable when its programs cannot be had here, RigError when it does not start.
    """
    sweep()
    binaries.get_all(CONTROL_PLANE_PROGRAMS)
    with RunDirectory.create(prefix="cp") as directory:
        plane = ControlPlane(binaries=binaries, directory=directory)
        try:
            plane.start()
            yield plane
        finally:
            plane.processes.stop_all()
