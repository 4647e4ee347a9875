"""Files that commands write."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import click

from tandem.api.problems import Problem, Refused, refuse

_MOST_NAMED = 5


def write_files(directory: Path, texts: Mapping[str, str], *, replace: bool = True) -> None:
    """Writes each text below `directory`, which is made if need be, and prints the paths; names may have one
    directory in them. Raises `Refused`, without `replace` also for files that are there, before any is written."""
    present = [] if replace else [directory / name for name in texts if os.path.lexists(directory / name)]
    if present:
        fix = "Give another directory, or replace them with --force."
        reason = f"would be replaced ({len(present)} of {len(texts)} files are there already)"
        raise Refused(Problem(str(path), "", reason, fix) for path in present[:_MOST_NAMED])
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (directory / name).parent.mkdir(exist_ok=True)
            (directory / name).write_text(text, encoding="utf-8")
            click.echo(directory / name)
    except OSError as error:
        reason = f"cannot be written: {error.strerror}"
        raise refuse("-o", str(directory), reason, "Give a writable directory.") from None
