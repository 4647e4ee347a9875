"""ModelJob: known, not served yet."""

from __future__ import annotations

from tandem.controller.accepted import NotServedYet
from tandem.controller.statuswriter import StatusWriter
from tandem.kube.cache import Cache
from tandem.kube.clock import Clock

MESSAGE = "this version runs no jobs yet: prepare the model's files on the volume by other means"


def job_reconciler(cache: Cache, statuses: StatusWriter, clock: Clock) -> NotServedYet:
    """The reconciler of ModelJobs."""
    return NotServedYet(cache, statuses, clock, message=MESSAGE)
