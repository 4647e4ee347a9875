"""What `build()` gives back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tandem.api.problems import Problem
from tandem.rendering.values import ParameterValue, RuleHit, Source

if TYPE_CHECKING:
    from tandem.manifests.fitting import RoleFit, Unjudged

__all__ = ["Build", "KubernetesObject", "ParameterValue", "RuleHit", "Source"]

KubernetesObject = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Deadline:
    """Seconds after which a worker of a role that still starts is ended; `otherwise`: without the podTemplate's own."""

    in_effect: ParameterValue
    otherwise: ParameterValue | None = None


@dataclass(frozen=True, slots=True)
class Build:
    """Everything a ModelDeployment stands for.

    `objects` are complete and in an order that is good for applying; callers must not change them. `parameters` are the
    effective engine parameters with their source, `rule_trace` what each rule did, `warnings` what a user should know
    although it works, `revision` the short hash of what prefill and decode workers must agree on. `unknown_fields` are
    fields of a podTemplate that the Kubernetes release of `podfields` does not have: most likely misspelt, but for the
    API server to judge where there is one, as it may be newer. `fits` has the verdict on each role where the model's
    blueprint is known, `deadlines` the time that each role has to start.
    """

    objects: tuple[KubernetesObject, ...]
    parameters: tuple[ParameterValue, ...]
    rule_trace: tuple[RuleHit, ...]
    warnings: tuple[str, ...]
    revision: str
    unknown_fields: tuple[Problem, ...] = ()
    fits: tuple[RoleFit | Unjudged, ...] = ()
    deadlines: tuple[Deadline, ...] = ()

    @property
    def misfits(self) -> tuple[Problem, ...]:
        """What does not fit."""
        return tuple(problem for fit in self.fits if (problem := fit.problem) is not None)
