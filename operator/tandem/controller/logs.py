"""Log lines of the operator, for people or for machines."""

from __future__ import annotations

import logging
from typing import Any, Literal

from tandem_edge.lines import JsonFormatter


class _JsonFormatter(JsonFormatter):
    def fields(self, record: logging.LogRecord) -> dict[str, Any]:  # noqa: ARG002
        return {}  # Kopf hangs its own objects on its lines


def configure_logging(level: str, form: Literal["text", "json"]) -> None:
    """Logs to stderr; libraries only when something is wrong."""
    handler = logging.StreamHandler()
    text = logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s")
    handler.setFormatter(_JsonFormatter() if form == "json" else text)
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("tandem").setLevel(level.upper())
