"""Objects and machines for the tests of local mode."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tandem.local.machine import Machine
from tandem.manifests import names


def worker_deployment(*, role: str = "agg", replicas: int = 1, spec: Mapping[str, Any] | None = None, **container: Any):
    """A Deployment of one container `server` that listens on port 8000; keywords go into the container."""
    labels = names.role_labels("demo", role, "r1")
    server = {
        "name": "server",
        "command": ["serve"],
        "args": ["--port", "8000"],
        "ports": [{"name": "http", "containerPort": 8000}],
        **container,
    }
    return {
        "kind": "Deployment",
        "metadata": {"name": f"demo-{role}-r1", "namespace": "ml", "labels": labels},
        "spec": {
            "replicas": replicas,
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [server], **(spec or {})}},
        },
    }


def router_objects(*, replicas: int = 1) -> list[dict[str, Any]]:
    """A router's Deployment and the Service in front of it."""
    labels = names.common_labels("demo", names.COMPONENT_ROUTER)
    container = {
        "name": "router",
        "command": ["tandem"],
        "args": ["router", "--namespace", "ml", "--drain-seconds", "5", "--host", "0.0.0.0", "--port", "8000"],
        "ports": [{"name": "http", "containerPort": 8000}],
    }
    return [
        {
            "kind": "Service",
            "metadata": {"name": "demo"},
            "spec": {"selector": names.router_selector("demo"), "ports": [{"port": 8000, "targetPort": "http"}]},
        },
        {
            "kind": "Deployment",
            "metadata": {"name": "demo-router", "labels": labels},
            "spec": {
                "replicas": replicas,
                "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
            },
        },
    ]


def machine(directory: Path = Path("/run"), **changes: Any) -> Machine:
    """A machine with four processors, every program in /bin, and ports from 9001 up; 7777 is for clients."""
    ports = itertools.count(9001)
    facts: dict[str, Any] = {
        "directory": directory,
        "port": 7777,
        "volumes": {},
        "secrets": {},
        "environment": {"PATH": "/bin"},
        "cpus": 4,
        "host_name": "here",
        "find_program": lambda name: f"/bin/{name}",
        "find_gpus": lambda: (),
        "free_port": lambda: next(ports),
        **changes,
    }
    return Machine(**facts)
