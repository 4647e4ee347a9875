"""Files that commands write."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import click

from tandem.api.problems import refuse


def write_files(directory: Path, texts: Mapping[str, str]) -> None:
    """Writes each text below `directory`, which is made if need be, and prints the paths; names may have one
    directory in them. Raises `Refused`."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (directory / name).parent.mkdir(exist_ok=True)
            (directory / name).write_text(text, encoding="utf-8")
            click.echo(directory / name)
    except OSError as error:
        reason = f"cannot be written: {error.strerror}"
        raise refuse("-o", str(directory), reason, "Give a writable directory.") from None
