"""Spans of requests for OpenTelemetry: one per request, and within it queue, hand-off or prefill, and decode of each
sequence. Never what was asked or answered.

Only where the standard variables name a collector; elsewhere nothing of OpenTelemetry's SDK is imported. The router
has the same in `tandem.gateway.spans`: neither package imports the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext

import aiohttp
from starlette.types import Scope

from tandem_serve.engine.types import SequenceRequest, Update

Answered = Callable[[str, int], None]
"""Takes the route and the status of an answer."""


def _unnoted(_route: str, _status: int) -> None:
    """Nothing is noted."""


class Spans:
    """Makes spans; this one makes none. Belongs to the event loop."""

    def request(self, scope: Scope, *, request_id: str) -> AbstractContextManager[Answered]:  # noqa: ARG002
        """A request from its beginning to its end, below the span that its headers name."""
        return nullcontext(_unnoted)

    def begin(self, requests: Iterable[SequenceRequest]) -> None:
        """These sequences of the request in whose context this is called have just been queued."""

    def on_update(self, update: Update) -> None:
        """Takes the news of one sequence."""

    def of_pulls(self) -> list[aiohttp.TraceConfig]:
        """What names the hand-off's span in requests to prefill workers."""
        return []

    def close(self) -> None:
        """Sends what is left, within a few seconds."""
