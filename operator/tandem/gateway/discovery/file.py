"""Workers from a JSON file, as local mode writes it.

`{"endpoints": [{"name", "address", "port", "role", "revision", "ready"}]}`, replaced as a whole when something changes.
SGLang prefill workers that share a machine have a `"bootstrap_port"` each, too.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from tandem.api.problems import Problem, Refused, refuse, shorten
from tandem.gateway.fleet import Endpoint, Fleet, FleetView, Role

log = logging.getLogger(__name__)

_TYPES: dict[str, tuple[type, str]] = {
    "name": (str, "a text"),
    "address": (str, "a text"),
    "port": (int, "a whole number"),
    "role": (str, "a text"),
    "revision": (str, "a text"),
    "ready": (bool, "true or false"),
}
_OPTIONAL: dict[str, tuple[type, str]] = {"bootstrap_port": (int, "a whole number")}
# What tells one version of the file from another: a replaced file has another inode.
Stamp = tuple[int, int, int]


class FileSource:
    """Publishes the file's workers whenever it changes; what cannot be used leaves the last good list in force."""

    def __init__(
        self,
        path: Path,
        view: FleetView,
        *,
        on_failure: Callable[[], None],
        poll_seconds: float,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._path = path
        self._view = view
        self._on_failure = on_failure
        self._poll_seconds = poll_seconds
        self._sleep = sleep
        self._seen: Stamp | None = None

    async def run(self) -> None:
        """Looks at the file again and again, until cancelled."""
        while True:
            self.look()
            await self._sleep(self._poll_seconds)

    def look(self) -> None:
        """Reads the file if it is not the one seen last."""
        try:
            stamp = _stamp(self._path)
            if stamp == self._seen:
                return
            self._seen = stamp
            fleet = read_fleet(self._path)
        except OSError as error:
            self._seen = None
            self._trouble(f"{self._path}: {error.strerror or error}")
        except Refused as refused:
            self._trouble(str(refused))
        else:
            self._view.publish(fleet)

    def _trouble(self, text: str) -> None:
        if self._view.trouble == text and self._view.synced:
            return
        if self._view.trouble != text:
            kept = "; the last good list stays in force" if self._view.synced else ""
            log.error("the endpoints file cannot be used%s: %s", kept, text)
            self._on_failure()
        self._view.trouble = text


def _stamp(path: Path) -> Stamp:
    found = path.stat()
    return found.st_mtime_ns, found.st_size, found.st_ino


def read_fleet(path: Path) -> Fleet:
    """The workers in the file. Raises Refused with every problem, located, or OSError."""
    try:
        value = json.loads(path.read_bytes())
    except json.JSONDecodeError as error:
        where = f"{path}:{error.lineno}:{error.colno}"
        raise refuse(where, None, f"is not JSON ({error.msg})", "Write the file as a whole and rename it.") from None
    except (UnicodeDecodeError, RecursionError) as error:
        raise refuse(str(path), None, f"is not JSON ({error})", "Write UTF-8 JSON.") from None
    if not isinstance(value, dict) or set(value) != {"endpoints"} or not isinstance(value["endpoints"], list):
        raise refuse(str(path), value, "is not an endpoints file", 'Write {"endpoints": [...]} and nothing else.')
    problems: list[Problem] = []
    endpoints: dict[str, Endpoint] = {}
    for index, entry in enumerate(value["endpoints"]):
        where = f"{path}: endpoints[{index}]"
        if found := _problems(where, entry):
            problems += found
        elif entry["name"] in endpoints:
            problems.append(Problem(f"{where}.name", repr(entry["name"]), "is there twice", "Give each its own name."))
        else:
            endpoints[entry["name"]] = Endpoint(**{**entry, "role": Role(entry["role"])})
    if problems:
        raise Refused(problems)
    return Fleet.of(endpoints.values())


def _problems(where: str, entry: Any) -> list[Problem]:
    if not isinstance(entry, dict):
        return [Problem(where, shorten(entry), "is not an object", f"Give {', '.join(_TYPES)}.")]
    found = [
        Problem(f"{where}.{key}", shorten(entry[key]), "is not known", f"Known are {', '.join(_TYPES)}.")
        for key in entry
        if key not in _TYPES and key not in _OPTIONAL
    ]
    for key, (kind, words) in (_TYPES | _OPTIONAL).items():
        value = entry.get(key)
        if key not in entry and key in _OPTIONAL:
            continue
        if key not in entry:
            found.append(Problem(f"{where}.{key}", "", "is missing", f"Give {words}."))
        elif not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            found.append(Problem(f"{where}.{key}", shorten(value), f"is not {words}", f"Give {words}."))
        elif key == "role" and value not in set(Role):
            found.append(Problem(f"{where}.role", shorten(value), "is not a role", f"Use one of: {', '.join(Role)}."))
        elif isinstance(value, int) and key in {"port", "bootstrap_port"} and not 0 < value < 65536:
            found.append(Problem(f"{where}.{key}", shorten(value), "is not a port", "Use 1 to 65535."))
        elif key in {"name", "address"} and not value:
            found.append(Problem(f"{where}.{key}", "''", "is empty", f"Give {words}."))
    return found
