"""Spans of requests for OpenTelemetry: one per request, one per leg to a worker. Never what was asked or answered.

Only where the standard variables name a collector; elsewhere nothing of OpenTelemetry's SDK is imported.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from contextlib import AbstractContextManager, nullcontext

from tandem.gateway.call import Record
from tandem.gateway.fleet import Endpoint
from tandem.gateway.headers import RawHeaders


class LegSpan:
    """The span of a leg; this one is none."""

    def end(self, outcome: str, *, status: int | None = None) -> None:
        """The leg is over; further ends change nothing."""


class Spans:
    """Makes spans; this one makes none."""

    def request(self, headers: RawHeaders, record: Record) -> AbstractContextManager[None]:  # noqa: ARG002
        """A request from its beginning to its end, below the span that its headers name; `record` tells of it."""
        return nullcontext()

    def leg(self, endpoint: Endpoint, headers: MutableMapping[str, str]) -> LegSpan:  # noqa: ARG002
        """A leg of the request in whose context this is called; the headers for the worker will name it."""
        return LegSpan()

    def close(self) -> None:
        """Sends what is left, within a few seconds."""
