"""The bar that a person at a terminal sees while a model loads; logs elsewhere say the same in lines."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn, TransferSpeedColumn

from tandem_serve.engine.progress import LoadProgress


@contextmanager
def loading_bar(progress: LoadProgress, console: Console) -> Iterator[None]:
    """Shows step, bytes and seconds until the end of the block; nothing where the console is no terminal."""
    if not console.is_terminal:
        yield
        return
    columns = (
        TextColumn("loading: {task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(progress.step_name, total=None)

        def refresh() -> None:
            bar.update(
                task,
                description=progress.step_name,
                total=progress.total_bytes or None,
                completed=progress.loaded_bytes,
            )

        progress.on_change = refresh
        try:
            yield
        finally:
            progress.on_change = lambda: None
