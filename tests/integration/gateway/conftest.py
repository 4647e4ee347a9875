"""The workers of the unit tests, for the router as a process too."""

from __future__ import annotations

from tests.unit.gateway.conftest import start_router, start_worker  # noqa: F401
