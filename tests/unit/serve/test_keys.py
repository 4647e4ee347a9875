"""API keys: from a file, compared without telling which, taken over when the file changes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tandem_serve.engine.loader import LoadedModel
from tandem_serve.metrics import ServerMetrics
from tandem_serve.problems import StartError
from tandem_serve.service import Service
from tests.unit.serve import tiny
from tests.unit.serve.live import Answer, LiveServer, live_server


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text("sk-one\n\n  sk-two  \r\n")
    return path


@pytest.fixture
async def server(llama: LoadedModel, file: Path) -> AsyncIterator[LiveServer]:
    async with live_server(tiny.settings(Path("x"), api_key_file=file), llama) as live:
        yield live


async def with_key(server: LiveServer, header: str | None) -> Answer:
    headers = {} if header is None else {"Authorization": header}
    return await server.post("/v1/completions", {"prompt": "a", "max_tokens": 1}, headers=headers)


@pytest.mark.parametrize("header", ["Bearer sk-one", "Bearer sk-two", "bearer sk-one"])
async def test_s1_30_each_key_of_the_file_opens(server: LiveServer, header: str) -> None:
    assert (await with_key(server, header)).status == 200


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "Bearer sk-three", "Basic sk-one", "sk-one"])
async def test_s1_30_anything_else_is_a_401_in_the_form_of_openai(server: LiveServer, header: str | None) -> None:
    answer = await with_key(server, header)
    assert answer.status == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert await server.metric('tandem_requests_total{path="/v1/completions",status="401"}') == 1
    assert (answer.error["type"], answer.error["code"]) == ("invalid_request_error", "invalid_api_key")
    assert answer.error["request_id"] == answer.headers["x-request-id"]
    assert "sk-" not in answer.body.decode()


async def test_probes_and_metrics_need_no_key_and_all_else_does(server: LiveServer) -> None:
    for path in ("/health", "/livez", "/metrics"):
        assert (await server.get(path)).status == 200
    for path in ("/", "/v1/models", "/model-info", "/openapi.json", "/nothing", "/healthy", "//health"):
        assert (await server.get(path)).status == 401
    assert (await server.get("/kv/unknown")).status in (401, 403, 404)


async def test_a_body_without_a_key_is_not_kept(server: LiveServer) -> None:
    answer = await server.request("POST", "/v1/completions", data=b" " * 9_000_000)
    assert answer.status == 401


async def test_s1_30_changes_of_the_file_are_taken_over(
    server: LiveServer, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tandem_edge.keys.REFRESH_SECONDS", 0.0)
    file.write_text("sk-new\n")  # noqa: ASYNC240 - a small local file
    assert (await with_key(server, "Bearer sk-new")).status == 200
    assert (await with_key(server, "Bearer sk-one")).status == 401


async def test_two_keys_are_none(server: LiveServer) -> None:
    keys = [("Authorization", "Bearer sk-one"), ("Authorization", "Bearer sk-two")]
    assert (await server.get("/v1/models", headers=keys)).status == 401


def test_a_file_that_cannot_be_used_ends_the_start(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("good\nsk secret\n")
    with pytest.raises(StartError) as caught:
        Service(tiny.settings(Path("x"), api_key_file=path), ServerMetrics())
    assert str(caught.value).startswith(f"--api-key-file = {path}:2: a key consists of visible ASCII")
    assert "secret" not in str(caught.value)
    assert caught.value.exit_code == 2
