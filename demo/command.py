"""The command `python -m demo`: makes the model, serves it disaggregated on this machine, asks for a passage."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

import click
from rich.console import Console

from demo.model import ensure_model
from demo.passages import passages, prompt_of
from demo.report import report
from demo.run import run_demo
from demo.training import TrainingFailed
from tandem.api.problems import Refused
from tandem.local.display import show_tail
from tandem.local.session import refused_by
from tandem.local.signals import run_until_signalled
from tandem.local.supervisor import UnitFailed


@click.command()
@click.option(
    "--passage", type=click.IntRange(1, len(passages())), default=5, show_default=True, help="Which passage to ask for."
)
@click.option("--verbose", is_flag=True, help="Show what the processes write.")
def command(*, passage: int, verbose: bool) -> None:
    """Serves a small model with prefill and decode in two processes, and shows that their answer is right."""
    console = Console(stderr=True)
    began = time.monotonic()
    try:
        model = ensure_model(console=console)
        code = run_until_signalled(_demo(model, passages()[passage - 1], console=console, verbose=verbose))
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    except TrainingFailed as error:
        console.print(f"error: the demo model cannot be used: {error}")
        code = 1
    except Refused as refused:
        for problem in refused.problems:
            click.echo(f"error: {problem}", err=True)
        code = 1
    else:
        console.print(f"{time.monotonic() - began:.0f} s from start to end; no process is left")
    sys.exit(code)


async def _demo(model: Path, passage: str, *, console: Console, verbose: bool) -> int:
    def show(text: str) -> None:
        click.echo(text, nl=False)

    click.echo(f"asking for: {prompt_of(passage)} ...")
    try:
        outcome = await run_demo(model, passage, console=console, verbose=verbose, show=show)
    except UnitFailed as failure:
        show_tail(console, failure.cause)
        raise refused_by(failure) from None
    click.echo(f"\n{report(outcome)}")
    return 0 if outcome.word_for_word and outcome.handed_off else 1
