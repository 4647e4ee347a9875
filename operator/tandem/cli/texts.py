"""How commands tell things: at the option that is meant, and in lines that fit."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

from tandem.api.problems import Refused


@contextmanager
def told_at(options: Mapping[str, str]) -> Iterator[None]:
    """What is refused inside at a path of `options` is told at the option that gave it."""
    try:
        yield
    except Refused as refused:
        raise Refused(replace(each, path=options.get(each.path, each.path)) for each in refused.problems) from None


def terminal_width() -> int | None:
    """Columns of the terminal that reads, None when it is none: a pipe gets whole lines."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None
