"""API keys: read from a file, one per line, compared in constant time, read again when the file changes."""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import re
import stat
from pathlib import Path

from tandem_serve.problems import StartError, usage_error

log = logging.getLogger(__name__)
FLAG = "--api-key-file"
_MOST_BYTES = 1 << 20  # the size of a Secret
_KEY = re.compile(rb"[\x21-\x7e]+")
_BEARER = b"bearer "


class ApiKeys:
    """The keys of one file. Only their digests are kept, so that a key shows in no traceback and no memory dump."""

    def __init__(self, path: Path) -> None:
        """Raises `StartError` when the file has no keys or cannot be read."""
        self._path = path
        self._failed = ""
        self._digests = _read(path)

    def __len__(self) -> int:
        return len(self._digests)

    def allows(self, authorization: bytes) -> bool:
        """Whether a header `Authorization` names a key. Takes as long for a wrong key as for a right one."""
        if authorization[: len(_BEARER)].lower() != _BEARER:
            return False
        given = hashlib.sha256(authorization[len(_BEARER) :].strip()).digest()
        # All are compared: the time does not tell which one it was.
        return sum(hmac.compare_digest(given, digest) for digest in self._digests) > 0

    def refresh(self) -> None:
        """Reads the file again. One that cannot be used leaves the keys as they are, which is logged once."""
        try:
            digests = _read(self._path)
        except StartError as error:
            if str(error) != self._failed:
                self._failed = str(error)
                log.error("the API keys stay as they were: %s", error)  # noqa: TRY400  (the message says it all)
            return
        self._failed = ""
        if digests != self._digests:
            self._digests = digests
            log.info("API keys read again", extra={"keys": len(digests)})


def _read(path: Path) -> tuple[bytes, ...]:
    try:
        content = _content(path)
    except OSError as error:
        reason = f"cannot be read: {error.strerror or error}"
        raise usage_error(
            FLAG, value=str(path), reason=reason, fix="give a readable file with one key per line"
        ) from None
    if len(content) > _MOST_BYTES:
        raise usage_error(FLAG, value=str(path), reason="is above 1 MiB", fix="give a file with one key per line")
    digests: dict[bytes, None] = {}
    for number, line in enumerate(content.splitlines(), start=1):
        key = line.strip()
        if not key:
            continue
        if not _KEY.fullmatch(key):
            reason = "a key consists of visible ASCII characters without spaces"  # never show what it is
            raise usage_error(FLAG, value=f"{path}:{number}", reason=reason, fix="correct this line")
        digests[hashlib.sha256(key).digest()] = None
    if not digests:
        raise usage_error(FLAG, value=str(path), reason="has no keys", fix="write one key per line")
    return tuple(digests)


def _content(path: Path) -> bytes:
    """The first bytes of a regular file. Raises `OSError`, also for a pipe, which is not waited for."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with open(handle, "rb") as file:  # noqa: PTH123  (of a descriptor)
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError("it is not a regular file")
        return file.read(_MOST_BYTES + 1)
