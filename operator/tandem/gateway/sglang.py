"""SGLang's hand-off: both workers get the same request at the same time, and meet in a room. Pure.

The prefill worker runs a bootstrap server; decode finds it by `bootstrap_host` and takes the KV of the request that has
the same `bootstrap_room`. A null `bootstrap_port` stands for the port that the receiving worker was started with, which
is the same on both. A worker of either role refuses a request without a room, so nobody can serve one alone.
"""

from __future__ import annotations

from tandem.gateway.protocol import encode

HOST, PORT, ROOM = "bootstrap_host", "bootstrap_port", "bootstrap_room"
# Rooms are non-negative 63-bit numbers, one for each request.
ROOMS = 2**63


def with_room(raw: bytes, *, host: str, port: int | None, draw: float) -> bytes:
    """`raw`, an object without these keys, byte for byte, with a room put in front; `draw` in [0, 1) chooses it."""
    rest = raw.lstrip()[1:].lstrip()
    fields = encode({HOST: host, PORT: port, ROOM: int(draw * ROOMS)})
    return fields[:-1] + (b"" if rest.startswith(b"}") else b",") + rest
