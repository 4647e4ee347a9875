"""What a test does with a running cluster: kubectl, kubeconfigs for other users, the audit log."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.cluster.audit import AuditEvent, read_events
from tests.cluster.binaries import Binaries
from tests.cluster.errors import RigError
from tests.cluster.kubeconfig import Endpoint, write_kubeconfig
from tests.cluster.pki import Authority

TOKEN_LIFETIME = "24h"


class ClusterClient:
    """A cluster as its administrator sees it.

    `kubeconfig` is a file (system:masters), `url` the API server's address, `audit_log` the JSON lines it writes.
    """

    def __init__(
        self, *, binaries: Binaries, endpoint: Endpoint, authority: Authority, folder: Path, audit_log: Path
    ) -> None:
        self._binaries = binaries
        self._endpoint = endpoint
        self._authority = authority
        self._folder = folder
        self.audit_log = audit_log
        self.kubeconfig = self.kubeconfig_for("admin", ["system:masters"])

    @property
    def url(self) -> str:
        """The API server's address, `https://HOST:PORT`."""
        return self._endpoint.url

    @property
    def authority_certificate(self) -> bytes:
        """The certificate (PEM) that the API server's own is signed with."""
        return self._endpoint.authority

    def bin(self, name: str) -> Path:
        """The path of one of the rig's programs (kubectl, helm, kubeconform…), built first when it is missing."""
        return self._binaries.get(name)

    def kubectl(
        self, *args: str, input: str | None = None, check: bool = True, kubeconfig: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Runs kubectl, as administrator unless another `kubeconfig` is given.

        `input` goes to its stdin. Raises RigError with its stderr when it fails, unless `check` is False.
        """
        command = [str(self.bin("kubectl")), f"--kubeconfig={kubeconfig or self.kubeconfig}", *args]
        done = subprocess.run(command, input=input, capture_output=True, text=True, check=False)
        if check and done.returncode != 0:
            raise RigError(f"kubectl {' '.join(args)}: exit status {done.returncode}\n{done.stderr}")
        return done

    def get(self, *args: str) -> Any:
        """`kubectl get … -o json`, parsed."""
        return json.loads(self.kubectl("get", *args, "-o", "json").stdout)

    def kubeconfig_for(self, user: str, groups: Iterable[str] = ()) -> Path:
        """A kubeconfig with a client certificate for any user; what it may do is up to RBAC."""
        path = self._folder / f"{_file_name(user)}.kubeconfig"
        return write_kubeconfig(path, endpoint=self._endpoint, credentials=self._authority.client(user, groups))

    def kubeconfig_for_service_account(self, namespace: str, name: str) -> Path:
        """A kubeconfig with a token (24 h) of a ServiceAccount that exists."""
        token = self.kubectl("create", "token", name, "--namespace", namespace, "--duration", TOKEN_LIFETIME).stdout
        path = self._folder / f"{namespace}.{name}.token.kubeconfig"
        return write_kubeconfig(path, endpoint=self._endpoint, credentials=token.strip())

    def audit_offset(self) -> int:
        """The audit log's size now, to read only what comes after."""
        return self.audit_log.stat().st_size

    def audit_events(self, *, since: int = 0) -> list[AuditEvent]:
        """The requests on record since an `audit_offset`."""
        return read_events(self.audit_log, offset=since)


def _file_name(user: str) -> str:
    return user.replace("/", "_").replace(":", "_")
