"""Free ports on this machine."""

from __future__ import annotations

import random
import socket

# Below the range that the kernel hands out to outgoing connections: one could take a port between look and use.
_CANDIDATES = range(20000, 30000)


def free_port() -> int:
    """A TCP port of loopback that nobody listens on now. Random, so that parallel rigs hardly ever pick the same."""
    for port in random.sample(_CANDIDATES, k=200):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError("200 random ports were all taken")
