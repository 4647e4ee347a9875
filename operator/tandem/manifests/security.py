"""What makes a pod meet the Pod Security Standard *restricted*."""

from __future__ import annotations

from typing import Any

USER_ID = 10001


def pod_security() -> dict[str, Any]:
    """The security context of a pod."""
    return {
        "runAsNonRoot": True,
        "runAsUser": USER_ID,
        "runAsGroup": USER_ID,
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def container_security() -> dict[str, Any]:
    """The security context that *restricted* asks of every container."""
    return {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def sealed_container_security() -> dict[str, Any]:
    """The same with a root file system that cannot be written to."""
    return container_security() | {"readOnlyRootFilesystem": True}
