"""The model is built once, complete or not at all, whoever asks for it at the same time."""

import contextlib
import signal
import threading
from pathlib import Path

import pytest

from demo import model
from demo.model import ensure_model
from demo.training import TrainingFailed


class Builder:
    """Stands in for the training: writes one file and counts."""

    def __init__(self, *, fail: bool = False) -> None:
        self.calls = 0
        self._fail = fail

    def __call__(self, directory: Path, *, progress: model.training.Progress) -> None:
        self.calls += 1
        (directory / "model.safetensors").write_text("weights")
        progress(5, 0.5)
        if self._fail:
            raise TrainingFailed("not learnt")


def test_the_second_call_builds_nothing(tmp_path):
    build = Builder()
    first = ensure_model(tmp_path, build=build)
    assert ensure_model(tmp_path, build=build) == first
    assert build.calls == 1
    assert (first / "model.safetensors").read_text() == "weights"


def test_an_interrupt_that_a_library_caught_ends_the_build_all_the_same(tmp_path):
    def catches(directory: Path, *, progress: model.training.Progress) -> None:
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        progress(5, 0.5)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        ensure_model(tmp_path, build=catches)
    assert [entry for entry in tmp_path.iterdir() if entry.is_dir()] == []
    assert signal.getsignal(signal.SIGINT) is before


def test_a_failed_build_leaves_no_directory_and_is_told(tmp_path):
    with pytest.raises(TrainingFailed, match="not learnt"):
        ensure_model(tmp_path, build=Builder(fail=True))
    assert [entry for entry in tmp_path.iterdir() if entry.is_dir()] == []


def test_two_callers_at_once_build_once(tmp_path):
    build = Builder()
    found: list[Path] = []
    callers = [threading.Thread(target=lambda: found.append(ensure_model(tmp_path, build=build))) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert build.calls == 1
    assert len(found) == 4
    assert len(set(found)) == 1


def test_what_a_killed_builder_left_is_removed(tmp_path):
    left_over = tmp_path / f"{model.SCRATCH}abc"
    left_over.mkdir()
    ensure_model(tmp_path, build=Builder())
    assert not left_over.exists()


def test_a_changed_passage_gives_another_directory(tmp_path, monkeypatch):
    before = ensure_model(tmp_path, build=Builder())
    changed = tmp_path / "passages.txt"
    changed.write_text("Another text.")
    monkeypatch.setattr(model, "SOURCES", (changed, *model.SOURCES[1:]))
    assert ensure_model(tmp_path, build=Builder()) != before


def test_other_users_may_read_the_model(tmp_path):
    directory = ensure_model(tmp_path, build=Builder())
    assert directory.stat().st_mode & 0o777 == 0o755
    assert (directory / "model.safetensors").stat().st_mode & 0o777 == 0o644


def test_the_cache_follows_the_environment(monkeypatch):
    monkeypatch.setenv("TANDEM_CACHE", "/chosen")
    assert model.cache_directory() == Path("/chosen")
    monkeypatch.delenv("TANDEM_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert model.cache_directory() == Path("/xdg/tandem")
