"""What a test does with any running cluster: kubectl and kubeconfigs."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from tests.cluster.binaries import Binaries
from tests.cluster.errors import RigError
from tests.cluster.kubeconfig import Endpoint, write_kubeconfig

TOKEN_LIFETIME = "24h"
# Longer than anything that is waited for: without an end, an API server that is stuck would stop a whole test run.
KUBECTL_SECONDS = 600.0


class ClusterClient:
    """A cluster as its administrator sees it: `kubeconfig` is a file that may do everything, `url` the API server's."""

    def __init__(self, *, binaries: Binaries, kubeconfig: Path, folder: Path) -> None:
        """`folder` takes kubeconfigs for other users."""
        self.kubeconfig = kubeconfig
        self._binaries = binaries
        self._endpoint = Endpoint.of(kubeconfig)
        self._folder = folder

    @property
    def url(self) -> str:
        """The API server's address, `https://HOST:PORT`."""
        return self._endpoint.url

    def bin(self, name: str) -> Path:
        """The path of one of the rig's programs (kubectl, helm, kubeconform…), built first when it is missing."""
        return self._binaries.get(name)

    def kubectl(
        self, *args: str, input: str | None = None, check: bool = True, kubeconfig: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Runs kubectl, as administrator unless another `kubeconfig` is given.

        `input` goes to its stdin. Raises RigError with its stderr when it fails, unless `check` is False, and when it
        does not end.
        """
        command = [str(self.bin("kubectl")), f"--kubeconfig={kubeconfig or self.kubeconfig}", *args]
        try:
            done = subprocess.run(
                command, input=input, capture_output=True, text=True, check=False, timeout=KUBECTL_SECONDS
            )
        except subprocess.TimeoutExpired as late:
            raise RigError(f"kubectl {' '.join(args)}: has not ended after {late.timeout:.0f} s") from None
        if check and done.returncode != 0:
            raise RigError(f"kubectl {' '.join(args)}: exit status {done.returncode}\n{done.stderr}")
        return done

    def get(self, *args: str) -> Any:
        """`kubectl get … -o json`, parsed."""
        return json.loads(self.kubectl("get", *args, "-o", "json").stdout)

    def kubeconfig_for_service_account(self, namespace: str, name: str) -> Path:
        """A kubeconfig with a token (24 h) of a ServiceAccount that exists."""
        token = self.kubectl("create", "token", name, "--namespace", namespace, "--duration", TOKEN_LIFETIME).stdout
        path = self._folder / f"{namespace}.{name}.token.kubeconfig"
        return write_kubeconfig(path, endpoint=self._endpoint, credentials=token.strip())
