"""API keys: from a file, compared without telling which, taken over when the file changes."""

from __future__ import annotations

import hmac
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tandem_serve.engine.loader import LoadedModel
from tandem_serve.http.keys import ApiKeys
from tandem_serve.problems import StartError
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


def test_s1_30_changes_of_the_file_are_taken_over(file: Path) -> None:
    keys = ApiKeys(file)
    file.write_text("sk-new\n")
    keys.refresh()
    assert keys.allows(b"Bearer sk-new")
    assert not keys.allows(b"Bearer sk-one")


def test_a_file_that_cannot_be_used_any_more_leaves_the_keys(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    keys = ApiKeys(file)
    file.write_text("")
    with caplog.at_level(logging.INFO):
        keys.refresh()
        keys.refresh()
    assert keys.allows(b"Bearer sk-one")
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "has no keys" in caplog.text
    file.unlink()
    keys.refresh()
    assert keys.allows(b"Bearer sk-one")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "has no keys"),
        (b"\n \n", "has no keys"),
        (b"good\nsk secret\n", ":2: a key consists of visible ASCII"),
        (b"\xff\xfe", ":1: a key"),
        (b"a" * (1 << 20) + b"bc", "is above 1 MiB"),
    ],
)
def test_a_file_without_proper_keys_ends_the_start_and_shows_none(tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "keys"
    path.write_bytes(content)
    with pytest.raises(StartError, match="--api-key-file = ") as caught:
        ApiKeys(path)
    assert told in str(caught.value).replace(f"{path}:2: ", ":2: ")
    assert "secret" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_missing_file_ends_the_start(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="No such file"):
        ApiKeys(tmp_path / "none")


def test_every_key_is_compared_in_constant_time_whichever_was_given(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[tuple[int, int]] = []
    compare = hmac.compare_digest

    def counted(one: bytes, other: bytes) -> bool:
        compared.append((len(one), len(other)))
        return compare(one, other)

    monkeypatch.setattr(hmac, "compare_digest", counted)
    keys = ApiKeys(file)
    for given in (b"Bearer sk-one", b"Bearer sk-two", b"Bearer x", b"Bearer " + b"y" * 5000):
        keys.allows(given)
    assert compared == [(32, 32)] * 8
