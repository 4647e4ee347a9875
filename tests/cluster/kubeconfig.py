"""Kubeconfig files: how a client reaches the cluster and as whom."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.pki import KeyPair, write_secret

CONTEXT = "tandem"


@dataclass(frozen=True)
class Endpoint:
    """An API server's address and the certificate (PEM) of the authority that vouches for it."""

    url: str
    authority: bytes

    @classmethod
    def of(cls, kubeconfig: Path) -> Endpoint:
        """What a kubeconfig with embedded certificates says about its one cluster."""
        cluster = yaml.safe_load(kubeconfig.read_text())["clusters"][0]["cluster"]
        return cls(url=cluster["server"], authority=base64.b64decode(cluster["certificate-authority-data"]))


def user_file_name(user: str) -> str:
    """A file name for a user's kubeconfig."""
    return f"{user.replace('/', '_').replace(':', '_')}.kubeconfig"


def write_kubeconfig(path: Path, *, endpoint: Endpoint, credentials: KeyPair | str) -> Path:
    """Writes a kubeconfig for a client certificate or a bearer token; returns `path`."""
    user: dict[str, Any]
    if isinstance(credentials, KeyPair):
        user = {
            "client-certificate-data": _encoded(credentials.certificate),
            "client-key-data": _encoded(credentials.key),
        }
    else:
        user = {"token": credentials}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {
                "name": CONTEXT,
                "cluster": {"server": endpoint.url, "certificate-authority-data": _encoded(endpoint.authority)},
            }
        ],
        "users": [{"name": CONTEXT, "user": user}],
        "contexts": [{"name": CONTEXT, "context": {"cluster": CONTEXT, "user": CONTEXT}}],
        "current-context": CONTEXT,
    }
    write_secret(path, yaml.safe_dump(config, sort_keys=False).encode())
    return path


def _encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()
