"""Where pods send spans of requests: the standard variable that the router and the bundled server read."""

from __future__ import annotations

from tandem.api.deployment import ModelDeployment
from tandem.manifests.arguments import escaped

_VARIABLE = "OTEL_EXPORTER_OTLP_ENDPOINT"
_READ_BY = frozenset({"torch"})


def router_env(deployment: ModelDeployment) -> list[dict[str, str]]:
    """The router's variables for it."""
    tracing = deployment.spec.tracing
    return [] if tracing is None else [{"name": _VARIABLE, "value": escaped(tracing.endpoint)}]


def worker_env(deployment: ModelDeployment) -> list[dict[str, str]]:
    """The workers' variables for it."""
    return router_env(deployment) if deployment.spec.backend in _READ_BY else []


def warnings(deployment: ModelDeployment) -> list[str]:
    """What it does not reach."""
    spec = deployment.spec
    if spec.tracing is None or spec.backend in _READ_BY:
        return []
    return [f"spec.tracing: the router sends spans; workers of {spec.backend} have settings of their own for theirs"]
