"""ModelBlueprint: known, not served yet."""

from __future__ import annotations

from tandem.controller.accepted import NotServedYet
from tandem.controller.statuswriter import StatusWriter
from tandem.kube.cache import Cache
from tandem.kube.clock import Clock

MESSAGE = (
    "the facts of a model are not read from this resource yet: name the model's files in spec.model.pvc or "
    "spec.model.hub of the ModelDeployment"
)


def blueprint_reconciler(cache: Cache, statuses: StatusWriter, clock: Clock) -> NotServedYet:
    """The reconciler of ModelBlueprints."""
    return NotServedYet(cache, statuses, clock, message=MESSAGE)
