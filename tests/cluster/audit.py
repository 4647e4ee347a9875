"""The API server's audit log: who asked for what. Tests count writes with it and see which permissions were used."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WRITE_VERBS = frozenset({"create", "update", "patch", "delete", "deletecollection"})
BLOCK_BYTES = 65536

# Requests are written when answered, without bodies; watches also when they start, as they may never end.
POLICY: dict[str, Any] = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [{"level": "Metadata"}],
}


@dataclass(frozen=True)
class AuditEvent:
    """One request to the API server. `status` is the HTTP status, 0 while the request goes on."""

    user: str
    verb: str
    group: str
    resource: str
    subresource: str
    namespace: str
    name: str
    status: int
    stage: str
    user_agent: str

    @property
    def is_write(self) -> bool:
        """Whether the request asked for a change, granted or not."""
        return self.verb in WRITE_VERBS


def complete_size(log: Path) -> int:
    """Bytes of the log up to the end of its last whole line: what is written next begins there."""
    with log.open("rb") as handle:
        end = handle.seek(0, os.SEEK_END)
        while end > 0:
            start = max(0, end - BLOCK_BYTES)
            handle.seek(start)
            newline = handle.read(end - start).rfind(b"\n")
            if newline >= 0:
                return start + newline + 1
            end = start
    return 0


def read_events(log: Path, *, offset: int = 0) -> list[AuditEvent]:
    """The requests written to the log from byte `offset` on; a line that is still being written is left out."""
    with log.open("rb") as handle:
        handle.seek(offset)
        lines = handle.read().split(b"\n")[:-1]
    return [_event(json.loads(line)) for line in lines]


def _event(entry: dict[str, Any]) -> AuditEvent:
    target = entry.get("objectRef", {})
    return AuditEvent(
        user=entry.get("user", {}).get("username", ""),
        verb=entry["verb"],
        group=target.get("apiGroup", ""),
        resource=target.get("resource", ""),
        subresource=target.get("subresource", ""),
        namespace=target.get("namespace", ""),
        name=target.get("name", ""),
        status=entry.get("responseStatus", {}).get("code", 0),
        stage=entry["stage"],
        user_agent=entry.get("userAgent", ""),
    )
