"""What a person sees of the processes without a terminal: one line per step, progress of loading, the last lines."""

import io

import pytest
from rich.console import Console

from tandem.local.display import Display, describe, show_tail
from tandem.local.plan import make_plan
from tandem.local.probe import Loading
from tandem.local.process import Exit
from tandem.local.unit import Cause, Phase, UnitStatus
from tests.unit.local.objects import machine, worker_deployment


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def status(phase: Phase, **changes) -> UnitStatus:
    return UnitStatus(unit="demo-agg-r1-0/server", pod="demo-agg-r1-0", phase=phase, **changes)


@pytest.fixture
def written():
    return io.StringIO()


@pytest.fixture
def clock():
    return Clock()


def display(written, clock, *, verbose=False) -> Display:
    plan = make_plan([worker_deployment()], machine=machine())
    return Display(plan, Console(file=written, width=200), verbose=verbose, clock=clock)


def test_a_phase_is_told_once_and_loading_now_and_then(written, clock):
    shown = display(written, clock)
    shown.changed(status(Phase.STARTING))
    shown.changed(status(Phase.STARTING, trouble="connection refused"))
    for clock.now in (1.0, 6.0, 7.0):
        shown.changed(status(Phase.STARTING, loading=Loading(int(clock.now * 1e9), 14_900_000_000)))
    clock.now = 9.5
    shown.changed(status(Phase.READY))
    assert written.getvalue().splitlines() == [
        "   0.0 s  demo-agg-r1-0: starting",
        "   1.0 s  demo-agg-r1-0: loading 1.0 GB/14.9 GB",
        "   6.0 s  demo-agg-r1-0: loading 6.0 GB/14.9 GB",
        "   9.5 s  demo-agg-r1-0: ready",
    ]


def test_each_step_of_loading_is_told(written, clock):
    shown = display(written, clock)
    for clock.now, step, loaded in ((1.0, "imports", 0), (2.0, "imports", 0), (8.0, "weights", 0), (8.5, "eval", 9)):
        shown.changed(status(Phase.STARTING, loading=Loading(loaded, 9_000_000, step)))
    assert written.getvalue().splitlines() == [
        "   1.0 s  demo-agg-r1-0: loading: imports",
        "   8.0 s  demo-agg-r1-0: loading 0 KB/9.0 MB",
        "   8.5 s  demo-agg-r1-0: loading: eval",
    ]


def test_lines_of_processes_are_shown_only_when_asked_for(written, clock):
    display(written, clock).line("demo-agg-r1-0/server", "quiet")
    display(written, clock, verbose=True).line("demo-agg-r1-0/server", "[red]loud[/red]")
    assert written.getvalue() == "[demo-agg-r1-0/server] [red]loud[/red]\n"


def test_a_terminal_gets_a_bar_for_each_process():
    written = io.StringIO()
    plan = make_plan([worker_deployment()], machine=machine())
    console = Console(file=written, width=100, force_terminal=True)
    with Display(plan, console, verbose=False) as shown:
        shown.changed(status(Phase.STARTING, loading=Loading(1_000_000, 4_000_000)))
        shown.changed(status(Phase.READY))
    assert "demo-agg-r1-0" in written.getvalue()
    assert "ready" in written.getvalue()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (status(Phase.STARTING), "starting"),
        (status(Phase.STARTING, loading=Loading(500, 20_000)), "loading 0 KB/20 KB"),
        (status(Phase.STARTING, loading=Loading(500, 20_000, "weights")), "loading 0 KB/20 KB"),
        (status(Phase.STARTING, loading=Loading(0, 20_000, "imports")), "loading: imports"),
        (status(Phase.STARTING, loading=Loading(0, 0)), "starting"),
        (status(Phase.RESTARTING, trouble="ended (exit code 3)"), "restarting: ended (exit code 3)"),
        (status(Phase.NOT_READY, trouble="HTTP 503"), "not ready: HTTP 503"),
        (status(Phase.READY, trouble=""), "ready"),
    ],
)
def test_a_status_in_words(given, words):
    assert describe(given) == words


def test_the_last_lines_of_a_failed_process_are_shown_as_they_are(written):
    tail = tuple(f"line {number}" for number in range(30))
    cause = Cause(unit="u/server", reason="ended", exit=Exit(1), attempts=2, tail=(*tail, "error: [x] is wrong"))
    show_tail(Console(file=written, width=80), cause)
    lines = written.getvalue().splitlines()
    assert lines[0] == "last lines of u/server:"
    assert lines[-1] == "  error: [x] is wrong"
    assert len(lines) == 13


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        (
            '{"time": "t", "level": "info", "logger": "l", "message": "load step", "step": "config"}',
            ["load step step=config"],
        ),
        ('{"level": "critical", "message": "error: a\\nerror: b"}', ["error: a", "error: b"]),
        ('{"message": "crashed", "exception": "Traceback\\n  x"}', ["crashed", "Traceback", "  x"]),
        ('{"detail": 5}', ['{"detail": 5}']),
        ('{"message": 5}', ['{"message": 5}']),
        ("[1]", ["[1]"]),
        ("[" * 5000, ["[" * 5000]),
    ],
)
def test_lines_of_a_log_in_json_are_shown_as_what_they_say(written, text, lines):
    show_tail(Console(file=written, width=80), Cause(unit="u", reason="ended", exit=Exit(1), attempts=2, tail=(text,)))
    assert written.getvalue().splitlines()[1:] == [f"  {line}" for line in lines]


@pytest.mark.parametrize(
    ("code", "words"),
    [(0, "exit code 0"), (2, "exit code 2"), (137, "exit code 137, SIGKILL"), (143, "exit code 143, SIGTERM")],
)
def test_exit_codes_name_the_signal(code, words):
    assert str(Exit(code)) == words
