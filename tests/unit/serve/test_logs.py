"""Log lines, the bar on a terminal, and what is fetched from the hub."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from rich.console import Console

from tandem_serve import logs
from tandem_serve.config import ServeConfig
from tandem_serve.display import loading_bar
from tandem_serve.engine.progress import LoadProgress
from tandem_serve.hub import local_directory
from tandem_serve.problems import StartError
from tests.unit.serve import tiny


def test_in_a_pod_each_line_is_a_json_object(capsys: pytest.CaptureFixture[str]) -> None:
    logs.setup(log_format=None, level="info")
    log = logging.getLogger("tandem_serve.x")
    log.info("request", extra={"request_id": "r1", "seconds": 0.5})
    log.debug("not shown")
    try:
        raise ValueError("é")
    except ValueError:
        log.exception("broken")
    first, second = map(json.loads, capsys.readouterr().err.splitlines())
    assert (first["message"], first["level"], first["request_id"], first["seconds"]) == ("request", "info", "r1", 0.5)
    assert first["time"].endswith("Z")
    assert "ValueError: é" in second["exception"]


def test_for_a_person_lines_are_text(capsys: pytest.CaptureFixture[str]) -> None:
    logs.setup(log_format="text", level="warning")
    logging.getLogger("tandem_serve.x").warning("slow", extra={"seconds": 3})
    assert capsys.readouterr().err.rstrip().endswith("warning slow seconds=3")


class Clock:
    """Time that moves by one second at each look."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1
        return self.now


def test_loading_is_told_now_and_then_with_the_seconds_left(caplog: pytest.LogCaptureFixture) -> None:
    progress = LoadProgress(logging.getLogger("tandem_serve.load"), clock=Clock())
    progress.total_bytes = 1000
    with caplog.at_level(logging.INFO), progress.step("weights"):
        for _ in range(10):
            progress.add(100)
    lines = [vars(record) for record in caplog.records]
    assert [line["message"] for line in lines] == ["loading weights", "loading weights", "load step"]
    assert (lines[0]["loaded_bytes"], lines[0]["total_bytes"]) == (500, 1000)
    assert lines[0]["seconds_left"] == lines[0]["seconds"]


def test_a_terminal_gets_a_bar_and_a_log_file_none() -> None:
    progress = LoadProgress(logging.getLogger("test"))
    progress.total_bytes = 2_000_000
    for terminal in (True, False):
        console = Console(file=io.StringIO(), force_terminal=terminal, width=100)
        with loading_bar(progress, console), progress.step("weights"):
            progress.add(1_000_000)
        shown = console.file.getvalue()
        assert ("loading: weights" in shown) == terminal


def settings(model: str):
    return replace(tiny.settings(Path(model)), model=model, config=ServeConfig(env={"HF_TOKEN_READ": "hf_secret"}))


def test_s1_18_a_repository_is_fetched_with_the_token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: dict[str, Any] = {}

    def snapshot(repository: str, **options: Any) -> str:
        asked.update(options, repository=repository)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    progress = LoadProgress(logging.getLogger("test"))
    wanted = replace(settings("Qwen/Qwen2.5-0.5B"), revision="v2")
    assert local_directory(wanted, progress) == tmp_path
    assert (asked["repository"], asked["revision"], asked["token"]) == ("Qwen/Qwen2.5-0.5B", "v2", "hf_secret")
    with pytest.raises(StartError, match="--revision = v2"):
        local_directory(replace(settings(str(tmp_path)), revision="v2"), progress)
    assert not {"*.bin", "*.pt"} & set(asked["allow_patterns"])
    assert local_directory(settings(str(tmp_path)), progress) == tmp_path
    assert local_directory(settings("/models/none"), progress) == Path("/models/none")


def test_s1_18_a_failed_fetch_says_what_to_do_and_not_the_token(monkeypatch: pytest.MonkeyPatch) -> None:
    def snapshot(*_: Any, **__: Any) -> str:
        raise OSError("401 Client Error\nhf_secret")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    with pytest.raises(StartError, match="set HF_TOKEN") as caught:
        local_directory(settings("a/b"), LoadProgress(logging.getLogger("test")))
    assert "hf_secret" not in str(caught.value)
    assert "401 Client Error" in str(caught.value)


def test_a_field_cannot_look_like_a_line_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    logs.setup(log_format="text", level="info")
    logging.getLogger("tandem_serve.x").info("request", extra={"path": "/a\n12:00:00 error forged"})
    assert len(capsys.readouterr().err.splitlines()) == 1


QUOTED = "prompt-text"


def _raise_nested(text: str) -> None:
    try:
        raise ValueError(text)
    except ValueError as error:
        raise RuntimeError(f"while reading {text}") from error


@pytest.mark.parametrize("log_format", ["json", "text"])
@pytest.mark.parametrize(
    ("logger", "shown"),
    [("tandem_serve.http.edge", False), ("uvicorn.error", False), ("asyncio", False), ("tandem_serve.engine", True)],
)
def test_an_error_that_may_quote_a_request_is_logged_without_its_words(
    capsys: pytest.CaptureFixture[str], log_format: logs.LogFormat, logger: str, shown: bool
) -> None:
    logs.setup(log_format=log_format, level="debug")
    try:
        _raise_nested(QUOTED)
    except RuntimeError:
        logging.getLogger(logger).exception("failed")
    written = capsys.readouterr().err
    assert (QUOTED in written) == shown
    assert all(word in written for word in ("ValueError", "RuntimeError", "_raise_nested", "test_logs.py"))


LIBRARIES = """
import logging, sys, threading, warnings
from tandem_serve import logs
import transformers
logs.setup(log_format="json", level="info")
for library in ("transformers", "huggingface_hub"):
    logs.through_our_handler(library)
logging.getLogger("transformers.modeling_utils").warning("a library's warning")
logging.getLogger("huggingface_hub.file_download").warning("another's")
warnings.warn("from python", stacklevel=1)
thread = threading.Thread(target=lambda: 1 / 0)
thread.start()
thread.join()
logs.last_words("error: the end")
raise KeyError("main")
"""


def test_in_a_pod_every_line_is_json_whoever_writes_it() -> None:
    done = subprocess.run([sys.executable, "-c", LIBRARIES], capture_output=True, text=True, timeout=100, check=False)
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert {line["logger"] for line in lines} == {
        "transformers.modeling_utils",
        "huggingface_hub.file_download",
        "py.warnings",
        "tandem_serve",
    }
    assert [line["message"] for line in lines[-2:]] == ["error: the end", "crashed"]
