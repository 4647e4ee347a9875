"""Shows on stderr how the processes are doing: a bar for each on a terminal, lines elsewhere."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from tandem.local.probe import Loading
from tandem.local.spec import LocalPlan
from tandem.local.unit import Cause, Phase, UnitStatus

SHOWN_TAIL_LINES = 12
_LINE_EVERY_SECONDS = 5.0
_LOG_FIELDS = frozenset({"time", "level", "logger", "message", "exception"})
_DONE = frozenset({Phase.READY, Phase.FAILED, Phase.STOPPED})


class Display:
    """An `Observer` for people. Between `__enter__` and `close` it draws bars when the console is a terminal."""

    def __init__(
        self, plan: LocalPlan, console: Console, *, verbose: bool, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._console = console
        self._verbose = verbose
        self._clock = clock
        self._began = clock()
        self._last: dict[str, tuple[tuple[Phase, str | None], float]] = {}
        self._bars: dict[str, TaskID] = {}
        self._progress: Progress | None = None
        if console.is_terminal:
            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                TextColumn("{task.fields[state]}"),
                TimeElapsedColumn(),
                console=console,
            )
            for pod in plan.pods:
                for unit in pod.units:
                    self._bars[unit.name] = self._progress.add_task(unit.pod, total=None, state=Phase.WAITING.value)

    def __enter__(self) -> Display:
        if self._progress:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stops drawing; from now on there are lines only."""
        if self._progress:
            self._progress.stop()
            self._progress = None

    def say(self, text: str) -> None:
        """Prints a line."""
        _print(self._console, text)

    def changed(self, status: UnitStatus) -> None:
        """See `Observer`."""
        if self._progress:
            self._draw(self._progress, status)
        else:
            self._print_if_new(status)

    def line(self, unit: str, text: str) -> None:
        """See `Observer`."""
        if self._verbose:
            self.say(f"[{unit}] {text}")

    def _draw(self, progress: Progress, status: UnitStatus) -> None:
        loading = status.loading
        total, done = (loading.total, loading.loaded) if loading and loading.counts else (None, 0)
        if status.phase in _DONE:
            total = done = 1
        progress.update(self._bars[status.unit], total=total, completed=done, state=describe(status))
        if status.phase in _DONE:
            progress.stop_task(self._bars[status.unit])

    def _print_if_new(self, status: UnitStatus) -> None:
        """Prints a new phase, each step of loading, and how far that is every few seconds."""
        now = self._clock()
        shown = status.phase, status.loading.step if status.loading else None
        last, printed = self._last.get(status.unit, (None, now))
        if shown == last and not (status.loading and now - printed >= _LINE_EVERY_SECONDS):
            return
        self._last[status.unit] = (shown, now)
        self.say(f"{now - self._began:6.1f} s  {status.pod}: {describe(status)}")


def describe(status: UnitStatus) -> str:
    """A status in a few words."""
    if status.phase in (Phase.RESTARTING, Phase.FAILED, Phase.NOT_READY) and status.trouble:
        return f"{status.phase}: {status.trouble}"
    return _loading_words(status.loading) or str(status.phase)


def _loading_words(loading: Loading | None) -> str:
    if loading is None:
        return ""
    if loading.counts:
        return f"loading {_size(loading.loaded)}/{_size(loading.total)}"
    return f"loading: {loading.step}" if loading.step else ""


def _size(count: int) -> str:
    for unit, scale in (("GB", 1e9), ("MB", 1e6)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count / 1e3:.0f} KB"


def show_tail(console: Console, cause: Cause) -> None:
    """Prints the last lines of a process that was given up."""
    if cause.tail:
        _print(console, f"last lines of {cause.unit}:")
    for text in cause.tail[-SHOWN_TAIL_LINES:]:
        for line in _readable(text).splitlines():
            _print(console, f"  {line}")


def _readable(text: str) -> str:
    """What a line of a log in JSON says, with its fields; other lines as they are."""
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        return text
    if not isinstance(fields, dict) or not isinstance(fields.get("message"), str):
        return text
    told = (f"{key}={value}" for key, value in fields.items() if key not in _LOG_FIELDS)
    trace = fields.get("exception")
    return " ".join([fields["message"], *told]) + (f"\n{trace}" if trace else "")


def _print(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
