"""LangChain's client for OpenAI's API."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

SCRIPT = Path(__file__).with_name("langchain_script.py")


def test_langchain_chats_streams_calls_tools_and_gets_values(url: str, client_environment: Path) -> None:
    done = subprocess.run([client_environment, SCRIPT, url], capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["finish"] == "length"
    assert report["usage"]["output_tokens"] == 12
    assert report["streamed"] == report["whole"]
    assert report["streamed_usage"][-1]["output_tokens"] == 12
    assert report["call"]["name"] == "weather"
    assert report["call"]["args"]["city"] in ("Ulm", "Rome")
    assert report["after"]
    assert report["place"]["city"] in ("Ulm", "Rome")
