"""The commands with which the server's page begins, run as they are written but for model and port."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

PAGE = (Path(__file__).parents[3] / "docs" / "server.md").read_text(encoding="utf-8")
LIMIT_SECONDS = 300
"""Only bounds a failure."""
ASK = """curl -sf http://localhost:8000/v1/completions -H 'Content-Type: application/json' \
  -d '{"model": "my-model", "prompt": "the quick", "max_tokens": 2}'
"""


def test_s1_28_the_commands_of_the_page_start_a_server_that_answers(model: Path, tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("there is no curl")
    (block,) = [text for text in re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL) if "$ tandem-serve" in text]
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "qwen").symlink_to(model)
    script = (re.sub(r"^\$ ", "", block, flags=re.MULTILINE) + ASK).replace(":8000", f":{port}")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {"OMP_NUM_THREADS": "1", **os.environ, "PORT": str(port), "PATH": path}
    with (tmp_path / "log").open("wb") as log:
        shell = subprocess.Popen(
            ["sh", "-c", script],
            stdout=subprocess.PIPE,
            stderr=log,
            cwd=tmp_path,
            env=environment,
            start_new_session=True,
        )
    end = threading.Timer(LIMIT_SECONDS, os.killpg, (shell.pid, signal.SIGKILL))
    end.start()
    try:
        answers = b""
        while b'"choices"' not in answers:
            assert shell.stdout is not None
            data = os.read(shell.stdout.fileno(), 1 << 16)
            assert data, (tmp_path / "log").read_text()
            answers += data
    finally:
        end.cancel()
        os.killpg(shell.pid, signal.SIGKILL)
        shell.wait()
    assert b'"status":"healthy"' in answers
    assert b'"model":"my-model"' in answers
