"""Where spans of requests go."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from tandem.api import patterns
from tandem.api.base import ApiModel


class Tracing(ApiModel):
    """Spans of requests for OpenTelemetry. They never hold what was asked or answered."""

    example: ClassVar = "{endpoint: http://collector.observability:4318}"
    not_fields: ClassVar = dict.fromkeys(("url", "address", "collector"), "Write endpoint.")

    endpoint: Annotated[str, Field(max_length=2048, pattern=patterns.BASE_URL.regex)] = Field(
        description="Collector that router and bundled server send spans to, by OTLP over HTTP: "
        "http://collector.observability:4318."
    )
