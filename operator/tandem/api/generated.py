"""Files that are generated from the models and committed: written, or checked for freshness."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path


def write_or_check(texts: Mapping[str, str], arguments: Sequence[str], *, default: str) -> int:
    """Writes `texts` by file name to the directory in `arguments` (else `default`).

    With --check nothing is written: stale files are named on stderr, and the result is 1 when there are any.
    """
    directory = Path(next((argument for argument in arguments if not argument.startswith("-")), default))
    if "--check" not in arguments:
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (directory / name).write_text(text, encoding="utf-8")
        return 0
    stale = [name for name, text in texts.items() if not _same(directory / name, text)]
    for name in stale:
        print(f"{directory / name} is stale: run make generated", file=sys.stderr)
    return 1 if stale else 0


def _same(path: Path, text: str) -> bool:
    return path.is_file() and path.read_text(encoding="utf-8") == text
