"""Golden files: deployments as users write them, and every object that they become, byte for byte.

`python -m tests.golden` writes all `objects.yaml` anew from their `deployment.yaml`; look at the difference before you
commit it. A new case is a new directory with a `deployment.yaml`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tandem.api.deployment import ModelDeployment
from tandem.api.load import load_deployment
from tandem.manifests import Build, Cluster, build
from tandem.manifests.placement import LEADER_WORKER_SET

ROOT = Path(__file__).parent
CASES = tuple(sorted(path.parent.name for path in ROOT.glob("*/deployment.yaml")))


def deployment_of(case: str, *, namespace: str | None = None) -> ModelDeployment:
    """The deployment of a case, moved to another namespace when one is given."""
    deployment = load_deployment(ROOT / case / "deployment.yaml")
    if namespace is None:
        return deployment
    metadata = deployment.metadata.model_copy(update={"namespace": namespace})
    return deployment.model_copy(update={"metadata": metadata})


def built(case: str, cluster: Cluster, *, namespace: str | None = None) -> Build:
    """The build of a case, for a cluster with LeaderWorkerSet."""
    return build(
        deployment_of(case, namespace=namespace), cluster=replace(cluster, apis=frozenset((LEADER_WORKER_SET,)))
    )
