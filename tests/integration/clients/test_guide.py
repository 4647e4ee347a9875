"""The examples of the server's page, run as they are written but for address and model."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

PAGE = (Path(__file__).parents[3] / "docs" / "server.md").read_text(encoding="utf-8")
SECTIONS = PAGE[PAGE.index("## Structured answers") : PAGE.index("## Models")]


def example(language: str, part: str) -> str:
    """The one example in this language that holds `part`."""
    found = [text for text in re.findall(rf"```{language}\n(.*?)```", SECTIONS, re.DOTALL) if part in text]
    assert len(found) == 1
    return found[0]


def shell(text: str, url: str) -> str:
    if shutil.which("curl") is None:
        pytest.skip("there is no curl")
    text = text.replace("http://localhost:8000", url)
    return subprocess.run(["sh", "-ec", text], capture_output=True, text=True, timeout=120, check=True).stdout


def test_the_shell_example_of_structured_answers(url: str) -> None:
    answer = json.loads(shell(example("sh", "response_format"), url))
    trip = json.loads(answer["choices"][0]["message"]["content"])
    assert trip["city"] in ("Ulm", "Rome")
    assert 1 <= trip["nights"] <= 9


def test_the_python_example_of_structured_answers(url: str) -> None:
    text = example("python", "parse").replace("http://localhost:8000", url).replace("my-model", "tiny")
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("city=")


def test_the_example_of_tools(url: str) -> None:
    (choice,) = json.loads(shell(example("sh", "tool_choice"), url))["choices"]
    assert choice["finish_reason"] == "tool_calls"
    (call,) = choice["message"]["tool_calls"]
    assert call["function"]["name"] == "weather"
    assert json.loads(call["function"]["arguments"])["city"] in ("Ulm", "Rome")


def test_the_examples_of_tokens(url: str) -> None:
    tokenized, rest = json.JSONDecoder().raw_decode(shell(example("sh", "/tokenize"), url))
    assert tokenized["count"] == len(tokenized["tokens"])
    assert rest
