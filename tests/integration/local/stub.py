"""A stand-in for a worker: a small HTTP server whose health a test controls through files in a directory.

    python stub.py --port N --state DIR [--ignore-sigterm] [--fail-first N --message TEXT] [--child]

`DIR/down` makes /health answer 503, `DIR/dead` /livez; with `DIR/refuses` it tells of a hand-off that was refused;
`DIR/exit` holds a code to end with. Each start adds its process id as a line to `DIR/starts`, `--child` starts a
grandchild in a session of its own and adds it to `DIR/children`. Unknown arguments are ignored, so that it can take the
place of a real worker.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


def main() -> None:
    options = parse()
    state: Path = options.state
    with (state / "starts").open("a") as starts:
        starts.write(f"{os.getpid()}\n")
    if options.ignore_sigterm:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    else:
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    if options.child:
        child = subprocess.Popen(["sleep", "1000"], start_new_session=True)
        with (state / "children").open("a") as children:
            children.write(f"{child.pid}\n")
    if len((state / "starts").read_text().splitlines()) <= options.fail_first:
        print(options.message, file=sys.stderr, flush=True)
        sys.exit(3)
    threading.Thread(target=watch_exit, args=(state,), daemon=True).start()
    ThreadingHTTPServer(("127.0.0.1", options.port), handler(state)).serve_forever()


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--ignore-sigterm", action="store_true")
    parser.add_argument("--fail-first", type=int, default=0)
    parser.add_argument("--message", default="")
    parser.add_argument("--child", action="store_true")
    return parser.parse_known_args()[0]


def watch_exit(state: Path) -> None:
    file = state / "exit"
    while not file.exists():
        time.sleep(0.02)
    code = int(file.read_text())
    file.unlink()
    os._exit(code)


def handler(state: Path) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            bad = {"/health": state / "down", "/livez": state / "dead"}.get(self.path)
            if bad is not None and bad.exists():
                self.answer(503, {"status": "loading", "loaded_bytes": 1, "total_bytes": 4})
            else:
                refusal = {"reason": "protocol", "message": "they speak another version"}
                refused = {"refused_handoff": refusal} if (state / "refuses").exists() else {}
                self.answer(200, {"status": "healthy", **refused})

        def answer(self, status: int, fields: dict[str, object]) -> None:
            body = json.dumps(fields).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing: the tests read what the process itself says."""

    return Handler


if __name__ == "__main__":
    main()
