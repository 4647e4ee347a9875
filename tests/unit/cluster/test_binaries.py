"""Where programs come from: a given folder, the cache, one build at a time; and what is said when there is no way."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from tests.cluster.binaries import Binaries, cache_root, content_key
from tests.cluster.errors import RigError, Unavailable

FAKE_GO = """#!/bin/sh
echo "$*" >> "{calls}"
sleep 0.2
[ -n "$GOBIN" ] && target=$GOBIN/helm
while [ $# -gt 0 ]; do [ "$1" = -o ] && target=$2; shift; done
{action}
"""


def ignore(_: str) -> None:
    """Progress that nobody sees."""


def program(folder: Path, name: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.touch(mode=0o755)
    return path


@pytest.fixture
def calls(tmp_path: Path) -> Path:
    return tmp_path / "calls"


def fake_go(tmp_path: Path, calls: Path, monkeypatch: pytest.MonkeyPatch, *, action: str) -> None:
    go = program(tmp_path / "path", "go")
    go.write_text(FAKE_GO.format(calls=calls, action=action))
    monkeypatch.setenv("PATH", f"{go.parent}:/usr/bin:/bin")


def test_given_folder_comes_before_the_cache(tmp_path: Path) -> None:
    binaries = Binaries(cache=tmp_path / "cache", assets=tmp_path / "assets")
    cached = program(tmp_path / "cache", "etcd")
    assert binaries.get("etcd") == cached
    given = program(tmp_path / "assets", "etcd")
    assert binaries.get("etcd") == given


def test_without_go_the_reason_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unavailable, match="there is no go to build it") as caught:
        Binaries(cache=tmp_path / "cache").get("etcd")
    assert caught.value.reason.startswith("etcd is neither in KUBEBUILDER_ASSETS nor in ")


@pytest.mark.parametrize("name", ["etcd", "helm"])
def test_missing_program_is_built_into_the_cache(
    tmp_path: Path, calls: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    fake_go(tmp_path, calls, monkeypatch, action='echo built > "$target"; chmod +x "$target"')
    lines: list[str] = []
    path = Binaries(cache=tmp_path / "cache", progress=lines.append).get(name)
    assert (path, path.read_text()) == (tmp_path / "cache" / name, "built\n")
    assert [line.split()[0] for line in lines] == ["building", "built"]


def test_failed_build_leaves_nothing_behind_and_says_why(
    tmp_path: Path, calls: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_go(tmp_path, calls, monkeypatch, action='echo half > "$target"; echo "no network" >&2; exit 1')
    with pytest.raises(RigError, match="no network"):
        Binaries(cache=tmp_path / "cache", progress=ignore).get("etcd")
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [".lock"]


def test_cache_that_cannot_be_made_is_a_reason(tmp_path: Path, calls: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_go(tmp_path, calls, monkeypatch, action=":")
    (tmp_path / "file").touch()
    with pytest.raises(Unavailable, match=r"cannot be kept in .*: Not a directory; set TANDEM_CACHE"):
        Binaries(cache=tmp_path / "file" / "cache", progress=ignore).get("helm")
    assert not calls.exists()


def test_two_at_once_build_once(tmp_path: Path, calls: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_go(tmp_path, calls, monkeypatch, action='echo built > "$target"; chmod +x "$target"')
    binaries = Binaries(cache=tmp_path / "cache", progress=ignore)
    both = [threading.Thread(target=binaries.get, args=("etcd",)) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert len(calls.read_text().splitlines()) == 1


def test_cache_is_where_the_user_says() -> None:
    assert cache_root({"TANDEM_CACHE": "/a", "XDG_CACHE_HOME": "/b"}) == Path("/a")
    assert cache_root({"XDG_CACHE_HOME": "/b"}) == Path("/b/tandem")
    assert cache_root({}) == Path.home() / ".cache" / "tandem"


def test_key_of_the_cache_is_stable() -> None:
    assert content_key() == content_key()
