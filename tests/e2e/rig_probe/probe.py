"""What the rig's own tests run in pods: serve a page, fetch one, or use up memory."""

from __future__ import annotations

import http.server
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path


def serve() -> None:
    """Answers every GET on port 8080 with this pod's host name."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(Path("/etc/hostname").read_bytes())

    http.server.ThreadingHTTPServer(("", 8080), Handler).serve_forever()


def fetch(url: str) -> None:
    """Prints what `url` answers. A Service may refuse for a moment after its pod got ready: tries for 20 seconds."""
    deadline = time.monotonic() + 20
    while True:
        try:
            with urllib.request.urlopen(url, timeout=10) as response:
                print(response.read().decode())
                return
        except urllib.error.URLError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def eat(megabytes: str) -> None:
    """Keeps that much memory in use until told to end."""
    block = b"x" * (int(megabytes) << 20)
    print(len(block), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    {"serve": serve, "fetch": fetch, "eat": eat}[sys.argv[1]](*sys.argv[2:])
