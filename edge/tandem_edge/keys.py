"""API keys of clients: read from a file, one per line, compared in constant time, read again when the file changes."""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import re
import stat
from collections.abc import Callable, Iterable
from pathlib import Path

REFRESH_SECONDS = 1.0
_MOST_BYTES = 1 << 20  # the size of a Secret
_KEY = re.compile(rb"[\x21-\x7e]+")
_BEARER = b"bearer "

log = logging.getLogger(__name__)


class UnusableKeys(Exception):
    """A file of keys is wrong: `place` is the file, or a line of it, and `reason` says why. Neither shows a key."""

    def __init__(self, place: str, reason: str) -> None:
        super().__init__(f"{place}: {reason}")
        self.place = place
        self.reason = reason


class ApiKeys:
    """The keys of one file; `clock` gives monotonic seconds.

    Only their digests are kept, so that a key shows in no traceback and no memory dump.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float]) -> None:
        """Raises `UnusableKeys` when the file has no keys or cannot be read."""
        self._path = path
        self._clock = clock
        self._failed = ""
        self._digests = _read(path)
        self._read_at = clock()

    def allows(self, headers: Iterable[tuple[bytes, bytes]]) -> bool:
        """Whether a request with these headers names a key. Takes as long for a wrong key as for a right one.

        A file that was last read a second ago or earlier is read again before.
        """
        if self._clock() - self._read_at >= REFRESH_SECONDS:
            self._refresh()
        given = [value for name, value in headers if name == b"authorization"]
        if len(given) != 1 or given[0][: len(_BEARER)].lower() != _BEARER:
            return False
        digest = hashlib.sha256(given[0][len(_BEARER) :].strip()).digest()
        # All are compared: the time does not tell which one it was.
        return sum(hmac.compare_digest(digest, known) for known in self._digests) > 0

    def _refresh(self) -> None:
        """Reads the file again. One that cannot be used leaves the keys as they are, which is logged once."""
        self._read_at = self._clock()
        try:
            digests = _read(self._path)
        except UnusableKeys as error:
            if str(error) != self._failed:
                self._failed = str(error)
                log.error("the API keys stay as they were: %s", error)  # noqa: TRY400 - the message says it all
            return
        self._failed = ""
        if digests != self._digests:
            self._digests = digests
            log.info("API keys read again: %d", len(digests))


def _read(path: Path) -> tuple[bytes, ...]:
    try:
        content = _content(path)
    except OSError as error:
        raise UnusableKeys(str(path), f"cannot be read: {error.strerror or error}") from None
    if len(content) > _MOST_BYTES:
        raise UnusableKeys(str(path), "is above 1 MiB")
    digests: dict[bytes, None] = {}
    for number, line in enumerate(content.splitlines(), start=1):
        key = line.strip()
        if not key:
            continue
        if not _KEY.fullmatch(key):
            raise UnusableKeys(f"{path}:{number}", "a key consists of visible ASCII characters without spaces")
        digests[hashlib.sha256(key).digest()] = None
    if not digests:
        raise UnusableKeys(str(path), "has no keys")
    return tuple(digests)


def _content(path: Path) -> bytes:
    """The first bytes of a regular file. Raises `OSError`, also for a pipe, which is not waited for."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with open(handle, "rb") as file:  # noqa: PTH123  (of a descriptor)
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError("it is not a regular file")
        return file.read(_MOST_BYTES + 1)
