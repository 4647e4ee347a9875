"""Which changes are looked at right away, and which may wait for what comes with them."""

from __future__ import annotations

from typing import Any

import pytest

from tandem.controller.leading import _is_progress
from tandem.kube.cache import Entry, entry_of
from tandem.kube.resources import DEPLOYMENT, POD, SERVICE, Resource


def entry(resource: Resource, *, version: int = 5, **metadata: Any) -> Entry:
    given = {"name": "x", "namespace": "ns", "uid": "u", "resourceVersion": str(version), **metadata}
    return entry_of(resource, {"metadata": given})


@pytest.mark.parametrize(
    ("now", "before", "waits"),
    [
        (entry(POD), None, True),
        (entry(POD, version=6), entry(POD), True),
        (entry(DEPLOYMENT, generation=2, version=6), entry(DEPLOYMENT, generation=2), True),
        (entry(DEPLOYMENT, generation=3, version=6), entry(DEPLOYMENT, generation=2), False),
        (entry(DEPLOYMENT, generation=2, version=6, uid="other"), entry(DEPLOYMENT, generation=2), False),
        (entry(DEPLOYMENT, generation=2, deletionTimestamp="x"), entry(DEPLOYMENT, generation=2), False),
        (entry(DEPLOYMENT, generation=2), None, False),
        (entry(SERVICE, version=6), entry(SERVICE), False),
    ],
)
def test_only_what_tells_of_progress_may_wait(now: Entry, before: Entry | None, waits: bool) -> None:
    assert _is_progress(now, before) is waits
