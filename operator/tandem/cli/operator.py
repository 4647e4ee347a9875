"""`tandem operator`: the long-running process of the operator's pods."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from tandem.api.problems import refuse
from tandem.cli.settings import BackendImage
from tandem.controller.run import run
from tandem.controller.settings import LeaderElection, OperatorSettings
from tandem.manifests.cluster import GPUS_PER_NODE, ROUTER_IMAGE


@click.command(
    "operator",
    short_help="Run the operator.",
    epilog="Example: tandem operator --watch-namespace ml --no-leader-election --kubeconfig ~/.kube/config",
)
@click.option(
    "--watch-namespace", "namespaces", multiple=True, metavar="NAMESPACE", help="Work in it only; repeat for more."
)
@click.option(
    "--leader-election/--no-leader-election",
    default=False,
    show_default=True,
    help="Let one of several replicas act, by a Lease.",
)
@click.option("--lease-namespace", help="Namespace of the Lease; default: the pod's ($POD_NAMESPACE).")
@click.option("--lease-name", default="tandem-operator", show_default=True)
@click.option("--router-image", default=ROUTER_IMAGE, show_default=True, help="Image of the routers.")
@click.option(
    "--worker-image",
    "images",
    type=BackendImage(),
    multiple=True,
    metavar="BACKEND=IMAGE",
    help="Default worker image of a backend; repeat for more.",
)
@click.option("--cluster-domain", default="cluster.local", show_default=True)
@click.option("--gpus-per-node", type=click.IntRange(1, 1024), default=GPUS_PER_NODE, show_default=True)
@click.option("--resync-seconds", type=click.FloatRange(min=0, min_open=True), default=600.0, show_default=True)
@click.option("--workers", type=click.IntRange(min=1), default=16, show_default=True, help="Deployments at a time.")
@click.option("--health-host", default="0.0.0.0", show_default=True)
@click.option("--health-port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="0: a free one.")
@click.option(
    "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info", show_default=True
)
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option(
    "--kubeconfig", type=click.Path(path_type=Path), help="Default: $KUBECONFIG, the pod's own, ~/.kube/config."
)
def command(
    *,
    namespaces: tuple[str, ...],
    leader_election: bool,
    lease_namespace: str | None,
    lease_name: str,
    images: tuple[tuple[str, str], ...],
    **values: Any,
) -> None:
    """Keeps every ModelDeployment as declared, in all namespaces or in those given, until SIGTERM."""
    election = None
    if leader_election:
        namespace = lease_namespace or os.environ.get("POD_NAMESPACE")
        if not namespace:
            reason = "leader election needs the namespace of its Lease"
            raise refuse("--lease-namespace", None, reason, "Give it, or set POD_NAMESPACE, or --no-leader-election.")
        election = LeaderElection(namespace=namespace, name=lease_name)
    run(OperatorSettings(namespaces=namespaces or None, leader_election=election, images=dict(images), **values))
