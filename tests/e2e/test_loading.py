"""How far a worker has loaded is in the status: told by the worker, asked by the router, shown by the operator."""

from __future__ import annotations

import re

import pytest

from tests.e2e.workspace import SMALL, Workspace, model_deployment

pytestmark = pytest.mark.e2e

SECONDS = 25
# What the bundled server says while it loads a model that is large enough to see it: half a gigabyte per second.
SERVER = f"""
import json, os, signal, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
began = time.monotonic()
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        seconds = time.monotonic() - began
        figures = {{"loaded_bytes": int(min(seconds, {SECONDS}) * 5e8), "total_bytes": 14_900_000_000}}
        body = json.dumps(figures).encode()
        self.send_response(503 if self.path == "/health" and seconds < {SECONDS} else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
ThreadingHTTPServer(("", 8000), Handler).serve_forever()
"""


def test_loading_is_shown_until_the_worker_is_ready(workspace: Workspace) -> None:
    container = {"name": "server", "command": ["python", "-c", SERVER]}
    role = {"resources": SMALL, "podTemplate": {"spec": {"containers": [container]}}}
    workspace.apply(model_deployment("slow", roles={"agg": role}))
    shown: list[float] = []

    def grows() -> bool:
        status = workspace.get("modeldeployment", "slow").get("status", {})
        text = status.get("roles", {}).get("agg", {}).get("loading")
        if text is not None:
            match = re.fullmatch(r"([0-9.]+)/14\.9 GB", text)
            assert match, text
            shown.append(float(match[1]))
        return len(set(shown)) >= 2

    try:
        workspace.wait_until(grows, "loading is shown, and goes on")
        assert shown == sorted(shown)
        found = workspace.wait_ready("slow")
        assert "loading" not in found["status"]["roles"]["agg"]
        assert "rootCause" not in found["status"]
    finally:
        workspace.delete("slow")
