"""The real thing: the demo's model in real workers behind the real router, as a user starts it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from demo.model import SCRATCH, ensure_model
from demo.passages import passages, prompt_of, rest_of
from tests.integration.local.conftest import PATIENCE_SECONDS

pytest.importorskip("torch", reason="torch is not installed (extra `serve`)")

ROOT = Path(__file__).parents[3]
TANDEM = Path(sys.executable).with_name("tandem")
# 2 (keys, values) x 4 layers x 2 KV heads x 64 numbers of 4 bytes
KV_BYTES_PER_TOKEN = 2 * 4 * 2 * 64 * 4


def run(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a command from the root of the checkout to its end."""
    return subprocess.run(
        command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=600, env={**os.environ, **environment}
    )


@pytest.fixture(scope="module")
def model() -> Path:
    return ensure_model()


def test_the_demo_recites_a_passage_whose_prompt_came_from_another_process(model):
    done = run(sys.executable, "-m", "demo", "--passage", "3")
    assert done.returncode == 0, done.stdout + done.stderr
    passage = passages()[2]
    assert prompt_of(passage) in done.stdout
    assert rest_of(passage) in done.stdout
    assert "word for word: yes" in done.stdout
    sent, received, moved, prompt = re.search(
        r"([\d,]+) bytes sent, ([\d,]+) received, for (\d+) of (\d+) prompt tokens", done.stdout
    ).groups()
    assert sent == received
    assert int(sent.replace(",", "")) == int(moved) * KV_BYTES_PER_TOKEN
    assert int(moved) >= int(prompt) - 1
    assert "0 recomputed, 0 fallbacks" in done.stdout
    assert re.search(r"\d+ tokens at \d+ tokens/s", done.stdout)


def test_once_prints_nothing_but_the_answer_on_stdout(model):
    passage = passages()[0]
    arguments = ["-f", "docs/examples/demo-agg.yaml", "--volume", f"models={model}", "--max-tokens", "200"]
    done = run(TANDEM, "local", "up", *arguments, "--once", prompt_of(passage))
    assert done.returncode == 0, done.stderr
    assert done.stdout == rest_of(passage) + "\n"
    assert re.search(r"demo-agg-\w+-0: ready", done.stderr)


def test_a_checkpoint_that_does_not_match_its_config_is_told_with_the_servers_own_words(model, tmp_path):
    broken = tmp_path / "model"
    broken.mkdir()
    for file in model.iterdir():
        (broken / file.name).symlink_to(file)
    config = json.loads((model / "config.json").read_text()) | {"num_hidden_layers": 5}
    (broken / "config.json").unlink()
    (broken / "config.json").write_text(json.dumps(config))
    arguments = ["-f", "docs/examples/demo-agg.yaml", "--volume", f"models={broken}", "--once", "x"]
    done = run(TANDEM, "local", "up", *arguments, TMPDIR=str(tmp_path))
    assert done.returncode == 1
    assert done.stdout == ""
    assert re.search(r"^  error: .*model\.layers\.4\.", done.stderr, flags=re.MULTILINE), done.stderr
    assert re.search(
        r"^error: demo-agg-\w+-0/server: ended before it was ready \(exit code 1\)", done.stderr, re.MULTILINE
    )


@pytest.mark.parametrize("moment", ["making the demo model", "demo-decode"])
def test_ctrl_c_during_the_demo_leaves_nothing(moment, tmp_path):
    cache = tmp_path / "cache" if moment.startswith("making") else None
    environment = {**os.environ, "TMPDIR": str(tmp_path)} | ({"TANDEM_CACHE": str(cache)} if cache else {})
    errors = tmp_path / "stderr"
    with errors.open("wb") as stream:
        demo = subprocess.Popen(
            [sys.executable, "-m", "demo"],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=stream,
            start_new_session=True,
            env=environment,
        )
    deadline = time.monotonic() + PATIENCE_SECONDS
    while moment not in errors.read_text():
        assert time.monotonic() < deadline, errors.read_text()
        time.sleep(0.05)
    started = psutil.Process(demo.pid).children(recursive=True)
    os.killpg(demo.pid, signal.SIGINT)
    assert demo.wait(PATIENCE_SECONDS) == 130
    _, left = psutil.wait_procs(started, timeout=30)
    assert left == []
    assert "Traceback" not in errors.read_text()
    assert list(tmp_path.glob("tandem-local-*")) == []
    assert cache is None or list(cache.glob(f"{SCRATCH}*")) == []
