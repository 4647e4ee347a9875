"""The demo's model, built once and kept: `python -m demo.model [--out DIR]` prints the directory it lies in."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from demo import training
from demo.passages import PASSAGES_FILE

SOURCES = (PASSAGES_FILE, PASSAGES_FILE.with_name("passages.py"), Path(training.__file__))
SCRATCH = ".demo-model-building-"


Builder = Callable[..., None]


def ensure_model(
    parent: Path | None = None, *, console: Console | None = None, build: Builder = training.build
) -> Path:
    """The directory of the model, built first when it is missing (some 10 s on two idle cores).

    `parent` is where models are kept (default: the user's cache). The name is a hash of the sources, so that a
    changed passage or recipe gives a new directory; a directory of that name is always complete. Safe to call
    from several processes at once. Raises `demo.training.TrainingFailed`.
    """
    parent = parent or cache_directory()
    directory = parent / f"demo-model-{_digest()}"
    if directory.is_dir():
        return directory
    parent.mkdir(parents=True, exist_ok=True)
    with _lock(parent / ".demo-model.lock"):
        if not directory.is_dir():
            _build_into(directory, console or Console(stderr=True), build)
    return directory


def cache_directory() -> Path:
    """$TANDEM_CACHE, or `tandem` in the user's cache directory."""
    if chosen := os.environ.get("TANDEM_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tandem"


def _digest() -> str:
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in SOURCES)).hexdigest()[:12]


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Held by one process at a time; the kernel frees it however that process ends."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build_into(directory: Path, console: Console, build: Builder) -> None:
    for left_over in directory.parent.glob(f"{SCRATCH}*"):  # of a builder that was killed: we hold the lock
        shutil.rmtree(left_over, ignore_errors=True)
    scratch = Path(tempfile.mkdtemp(prefix=SCRATCH, dir=directory.parent))
    # Threads that spin while they wait make training many times slower beside a busy neighbour. Read with torch.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        with _progress(console) as show, _interrupts_kept() as check:

            def progress(step: int, certainty: float) -> None:
                check()
                show(step, certainty)

            build(scratch, progress=progress)
            check()
        # Workers in pods run as another user.
        scratch.chmod(0o755)
        for file in scratch.iterdir():
            file.chmod(0o644)
        scratch.rename(directory)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def _interrupts_kept() -> Iterator[Callable[[], None]]:
    """Gives what raises a Ctrl-C again: libraries catch what is raised while they are imported."""
    heard = []

    def hear(*_: object) -> None:
        heard.append(True)
        raise KeyboardInterrupt

    def check() -> None:
        if heard:
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # only the main thread is interrupted
        yield check
        return
    before = signal.signal(signal.SIGINT, hear)
    try:
        yield check
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _progress(console: Console) -> Iterator[training.Progress]:
    """Shows training as a bar on a terminal, as lines elsewhere."""
    if not console.is_terminal:
        console.print("making the demo model (once; under a minute)", highlight=False)
        yield lambda step, certainty: console.print(_state(step, certainty), highlight=False)
        return
    columns = (TextColumn("making the demo model"), BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("reading torch", total=training.SURE)

        def show(step: int, certainty: float) -> None:
            bar.update(task, completed=min(certainty, training.SURE), description=_state(step, certainty))

        yield show


def _state(step: int, certainty: float) -> str:
    return f"step {step}, least certain token {certainty:.0%}"


@click.command(help="Builds the demo's model when it is missing, and prints its directory.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Where to keep it (default: the cache).")
def _main(out: Path | None) -> None:
    try:
        click.echo(ensure_model(out))
    except training.TrainingFailed as error:
        raise click.ClickException(f"the demo model cannot be used: {error}") from None


if __name__ == "__main__":
    _main()
