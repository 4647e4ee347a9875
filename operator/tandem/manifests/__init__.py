"""`build()`: from a ModelDeployment to every Kubernetes object it stands for. Pure: no I/O, no clock, no state."""

from tandem.manifests.build import build
from tandem.manifests.cluster import Cluster
from tandem.manifests.model import Build, ParameterValue, RuleHit

__all__ = ["Build", "Cluster", "ParameterValue", "RuleHit", "build"]
