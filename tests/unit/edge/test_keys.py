"""API keys: from a file, compared without telling which, taken over when the file changes."""

from __future__ import annotations

import hmac
import logging
import os
from pathlib import Path

import pytest

from tandem_edge.keys import REFRESH_SECONDS, ApiKeys, UnusableKeys


class Clock:
    """Monotonic seconds, as the test says."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text("sk-one\n\n  sk-two  \r\n")
    return path


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def keys(file: Path, clock: Clock) -> ApiKeys:
    return ApiKeys(file, clock=clock)


def allows(keys: ApiKeys, *values: str) -> bool:
    return keys.allows([(b"host", b"x"), *((b"authorization", value.encode()) for value in values)])


@pytest.mark.parametrize("value", ["Bearer sk-one", "Bearer sk-two", "bearer sk-one"])
def test_s1_30_each_key_of_the_file_opens(keys, value):
    assert allows(keys, value)


@pytest.mark.parametrize(
    "values", [[], [""], ["Bearer"], ["Bearer "], ["Bearer sk-three"], ["Basic sk-one"], ["sk-one"]]
)
def test_anything_else_does_not(keys, values):
    assert not allows(keys, *values)


def test_two_headers_are_none(keys):
    assert not allows(keys, "Bearer sk-one", "Bearer sk-three")


def test_s1_30_a_change_holds_for_the_next_request_a_second_later(keys, file, clock):
    file.write_text("sk-new\n")
    assert allows(keys, "Bearer sk-one")
    clock.now += REFRESH_SECONDS
    assert allows(keys, "Bearer sk-new")
    assert not allows(keys, "Bearer sk-one")


def test_a_secret_that_the_kubelet_swaps_is_followed(tmp_path, clock):
    """A mounted Secret is a link to a link: an update replaces the directory behind it."""
    for version in ("one", "two"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "api-keys").write_text(f"sk-{version}")
    (tmp_path / "..data").symlink_to("one")
    (tmp_path / "api-keys").symlink_to("..data/api-keys")
    keys = ApiKeys(tmp_path / "api-keys", clock=clock)
    (tmp_path / "new").symlink_to("two")
    (tmp_path / "new").rename(tmp_path / "..data")
    clock.now += REFRESH_SECONDS
    assert allows(keys, "Bearer sk-two")
    assert not allows(keys, "Bearer sk-one")


def test_a_file_that_cannot_be_used_any_more_leaves_the_keys(keys, file, clock, caplog):
    with caplog.at_level(logging.INFO):
        for change in (lambda: file.write_text("sk-new\nsk bad\n"), lambda: None, file.unlink):
            change()
            clock.now += REFRESH_SECONDS
            assert allows(keys, "Bearer sk-one")
    assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR"]
    assert "sk-new" not in caplog.text
    assert "bad" not in caplog.text


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "has no keys"),
        (b"\n \n", "has no keys"),
        (b"good\nsk secret\n", ":2: a key consists of visible ASCII"),
        (b"\xff\xfe", ":1: a key consists of visible ASCII"),
        (b"a" * (1 << 20) + b"bc", "is above 1 MiB"),
    ],
)
def test_a_file_without_proper_keys_is_refused_and_shows_none(tmp_path, clock, content, told):
    path = tmp_path / "keys"
    path.write_bytes(content)
    with pytest.raises(UnusableKeys, match=f"^{path}.*{told}") as refused:
        ApiKeys(path, clock=clock)
    assert "secret" not in str(refused.value)


def test_a_missing_file_is_refused(tmp_path, clock):
    with pytest.raises(UnusableKeys, match="No such file"):
        ApiKeys(tmp_path / "none", clock=clock)


def test_a_pipe_is_refused_and_not_waited_for(tmp_path, clock):
    path = tmp_path / "keys"
    os.mkfifo(path)
    with pytest.raises(UnusableKeys, match="it is not a regular file"):
        ApiKeys(path, clock=clock)


def test_every_key_is_compared_in_constant_time_whichever_was_given(keys, monkeypatch):
    compared: list[tuple[int, int]] = []
    compare = hmac.compare_digest

    def counted(one: bytes, other: bytes) -> bool:
        compared.append((len(one), len(other)))
        return compare(one, other)

    monkeypatch.setattr(hmac, "compare_digest", counted)
    for value in ("sk-one", "sk-two", "x", "y" * 5000):
        allows(keys, f"Bearer {value}")
    assert compared == [(32, 32)] * 8
