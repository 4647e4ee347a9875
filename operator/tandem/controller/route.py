"""ModelRoute: known, not served yet."""

from __future__ import annotations

from tandem.controller.accepted import NotServedYet
from tandem.controller.statuswriter import StatusWriter
from tandem.kube.cache import Cache
from tandem.kube.clock import Clock

MESSAGE = "this version serves no routes yet: use the endpoint in the status of a ModelDeployment"


def route_reconciler(cache: Cache, statuses: StatusWriter, clock: Clock) -> NotServedYet:
    """The reconciler of ModelRoutes."""
    return NotServedYet(cache, statuses, clock, message=MESSAGE)
