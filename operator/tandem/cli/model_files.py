"""A model's blueprint from its files: a directory, a config.json, a written blueprint, or a repository of the hub."""

from __future__ import annotations

import os
import re
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tandem.api import patterns
from tandem.api.problems import Problem, Refused, refuse
from tandem.blueprint.document import MAX_CHARACTERS, MAX_INDEX_CHARACTERS, parse_json
from tandem.blueprint.index import Index, read_index
from tandem.blueprint.text import read_text

if TYPE_CHECKING:
    from tandem.blueprint.model import Blueprint

CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
_WEIGHTS = frozenset((".safetensors", ".gguf", ".bin", ".pt", ".pth"))
_LONGEST_HEADER = 100_000_000  # the format's own limit


def read_blueprint(source: str, *, revision: str = "main") -> Blueprint:
    """The blueprint of a path, of standard input (`-`) or of `owner/name`; raises `Refused`."""
    if source == "-":
        name = "standard input"
        return read_text(_decoded(sys.stdin.buffer.read(MAX_CHARACTERS + 1), name, MAX_CHARACTERS), name)
    path = Path(source)
    fix = f"Name a directory with a {CONFIG}, such a file, or a repository as owner/name."
    try:
        is_there = os.path.lexists(path)
        if is_there and path.is_dir() and source:
            return _of_directory(path)
    except OSError as error:
        raise _unreadable(path, error) from None
    if is_there and source:
        if path.suffix in _WEIGHTS:
            fix = f"Name the directory of the model that it belongs to, or its {CONFIG}."
            raise refuse(str(path), None, f"a {path.suffix} file holds weights, and is not read for facts", fix)
        return read_text(_text(path, MAX_CHARACTERS), str(path))
    if re.search(patterns.REPOSITORY.regex, source) and "/" in source:
        return of_repository(source, revision)
    raise refuse(source[:80], None, "there is no such file or directory", fix)


def _of_directory(path: Path) -> Blueprint:
    config = path / CONFIG
    if not config.is_file():
        fix = f"Name the directory that holds the model's {CONFIG}."
        reason = "this is no file, or a link to none" if os.path.lexists(config) else "the file does not exist"
        raise refuse(str(config), None, reason, fix)
    return read_text(_text(config, MAX_CHARACTERS), str(config), index=_index(path))


def _index(path: Path) -> Index | None:
    index, single = path / INDEX, path / _SINGLE
    if index.is_file():
        document = parse_json(_text(index, MAX_INDEX_CHARACTERS), str(index), limit=MAX_INDEX_CHARACTERS)
        # Without any weights beside it, the index alone was copied.
        return read_index(document, place=f"{index}: ", sizes=_sizes(path) or None)
    return _single(single) if single.is_file() else None


def _sizes(directory: Path) -> dict[str, int]:
    """Bytes of the files with weights; a link to a file that is not there counts as not there."""
    try:
        return {file.name: file.stat().st_size for file in directory.glob("*.safetensors") if file.is_file()}
    except OSError as error:
        raise _unreadable(directory, error) from None


def _single(path: Path) -> Index:
    """A file without an index: what stands behind its header."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            header = int.from_bytes(file.read(8), "little")
    except OSError as error:
        raise _unreadable(path, error) from None
    if not 2 <= header <= min(_LONGEST_HEADER, size - 8):
        raise refuse(str(path), f"{size} bytes", "this is no safetensors file", "Download it again.")
    return Index(size - 8 - header, (path.name,), 1, str(path))


def of_repository(repository: str, revision: str) -> Blueprint:
    """The blueprint of a repository, from its config.json at the hub or in its cache here; raises `Refused`."""
    from tandem.cli.hub import hub_file

    data = hub_file(repository, CONFIG, revision=revision, limit=MAX_CHARACTERS, environment=os.environ)
    name = f"{repository}: {CONFIG}"
    return read_text(_decoded(data, name, MAX_CHARACTERS), name)


def _text(path: Path, limit: int) -> str:
    try:
        if _is_named_pipe(path):
            raise refuse(
                str(path), None, "a pipe may stay silent for ever", "Give - and send the text to standard input."
            )
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise _unreadable(path, error) from None
    return _decoded(data, str(path), limit)


def _is_named_pipe(path: Path) -> bool:
    """A shell's own pipes (/dev/fd/63) have no name, and somebody who writes."""
    try:
        return stat.S_ISFIFO(os.lstat(os.path.realpath(path)).st_mode)
    except OSError:
        return False


def _decoded(data: bytes, name: str, limit: int) -> str:
    if len(data) > limit:
        raise refuse(name, None, "the file is too large", f"Give a file of at most {limit // 2**20} MiB.")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise refuse(f"{name}:{line}", None, "this is no text in UTF-8", "Save it as UTF-8.") from None


def _unreadable(path: Path, error: OSError) -> Refused:
    reason = f"it cannot be read: {error.strerror}"
    return Refused((Problem(str(path)[:200], "", reason, "Give a file that you may read."),))
