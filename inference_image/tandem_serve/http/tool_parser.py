"""Finds the calls of tools in a text that comes piece by piece, and passes on the rest as it is.

Nothing is lost: what looks like a call and is none comes out as text.
"""

from __future__ import annotations

import json
import re
import secrets
import string
from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Protocol

from tandem_serve.http.tool_formats import ToolFormat

_ALPHABET = string.ascii_letters + string.digits
_HEAD = re.compile(r'\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\{)', re.DOTALL)


@dataclass(frozen=True)
class CallDelta:
    """News of the call `index`: its id and name when it begins, then pieces of its arguments' JSON."""

    index: int
    arguments: str = ""
    call_id: str | None = None
    name: str | None = None


Part = str | CallDelta


class Reader(Protocol):
    """Reads one answer."""

    @property
    def calls(self) -> int:
        """Calls found so far."""

    def push(self, text: str) -> list[Part]:
        """What is certain with this further text."""

    def finish(self) -> list[Part]:
        """What is left at the end of the text."""


class PlainText:
    """An answer without calls."""

    calls = 0

    def push(self, text: str) -> list[Part]:
        """The text."""
        return [text] if text else []

    def finish(self) -> list[Part]:
        """Nothing."""
        return []


class _Mode(Enum):
    TEXT = auto()  # waiting for a call
    HEAD = auto()  # inside a call, its name not known yet
    ARGUMENTS = auto()
    TAIL = auto()  # after the arguments, before the brace that ends the call
    AFTER = auto()  # after that brace
    REST = auto()  # no call can come any more


class ToolParser:
    """One answer. `names` are the functions there are; a call of another one is text."""

    def __init__(self, tool_format: ToolFormat, names: Collection[str], *, several: bool) -> None:
        self._format = tool_format
        self._names = frozenset(names)
        self._several = several
        self._mode = _Mode.TEXT
        self._held = ""
        self._value = _ObjectEnd()
        self._opened = ""
        """What was taken for the start of a call, in case it is none."""
        self._parts: list[Part] = []
        self.calls = 0

    def push(self, text: str) -> list[Part]:
        """What is certain now."""
        self._held += text
        while self._step():
            pass
        return self._take()

    def finish(self) -> list[Part]:
        """What is left at the end of the text."""
        if self._mode is _Mode.HEAD:
            self._say(self._opened + self._held)
        elif self._mode in (_Mode.TEXT, _Mode.REST):
            self._say(self._held)
        self._held = ""
        return self._take()

    def _take(self) -> list[Part]:
        parts, self._parts = self._parts, []
        return parts

    def _say(self, text: str) -> None:
        if text and (self.calls == 0 or text.strip()):  # white space around calls is theirs
            self._parts.append(text)

    def _step(self) -> bool:
        """Goes on by one state; False when more text is needed."""
        match self._mode:
            case _Mode.TEXT:
                return self._find_begin() if self._format.begin else self._find_bare()
            case _Mode.HEAD:
                return self._read_head()
            case _Mode.ARGUMENTS:
                return self._read_arguments()
            case _Mode.TAIL:
                return self._read_tail()
            case _Mode.AFTER:
                return self._read_after()
            case _Mode.REST:
                self._say(self._held)
                self._held = ""
                return False

    def _find_begin(self) -> bool:
        begin = self._format.begin
        before, found, after = self._held.partition(begin)
        if not found:
            keep = next((n for n in range(len(begin) - 1, 0, -1) if self._held.endswith(begin[:n])), 0)
            if self.calls and not self._held.strip():
                return False
            self._say(self._held[: len(self._held) - keep])
            self._held = self._held[len(self._held) - keep :]
            return False
        self._say(before)
        if self._format.array:
            opened = re.match(r"\s*\[", after)
            if opened is None:
                if not after.strip():
                    self._held = begin + after  # the list may still come
                    return False
                self._say(begin)
                self._held, self._mode = after, _Mode.REST
                return True
            begin, after = begin + opened[0], after[opened.end() :]
        self._open(begin, after)
        return True

    def _find_bare(self) -> bool:
        text = self._held.lstrip()
        start = self._format.ignored_start
        if start and text.startswith(start):
            text = text[len(start) :].lstrip()
        if not text or (start and start.startswith(text)):
            return False
        if text[0] == "{":
            self._open(self._held[: len(self._held) - len(text)], text)
        else:
            self._mode = _Mode.REST
        return True

    def _open(self, opened: str, rest: str) -> None:
        self._opened, self._held, self._mode = opened, rest, _Mode.HEAD
        self._value = _ObjectEnd()

    def _read_head(self) -> bool:
        head = _HEAD.match(self._held)
        if head is not None and (name := _loaded(head[1])) in self._names:
            self._begin_call(name)
            self._held, self._mode, self._value = self._held[head.end() :], _Mode.ARGUMENTS, _ObjectEnd()
            return True
        if self._held.strip() and self._held.lstrip()[0] != "{":
            return self._give_up()
        end = self._value.find(self._held)
        if end is None:
            return False
        call = _loaded(self._held[:end])
        name, arguments = _parts_of(call)
        if name not in self._names:
            return self._give_up()
        self._begin_call(name)
        self._emit(CallDelta(self.calls - 1, arguments=arguments))
        self._held, self._mode = self._held[end:], _Mode.AFTER
        return True

    def _give_up(self) -> bool:
        """It is no call: all of it is text, and a later call is found only where calls are marked."""
        self._say(self._opened)
        self._mode = _Mode.TEXT if self._format.begin and not self._format.array else _Mode.REST
        return True

    def _begin_call(self, name: str) -> None:
        self.calls += 1
        letters = self._format.id_letters
        code = "".join(secrets.choice(_ALPHABET) for _ in range(letters))
        call_id = code if letters == 9 else f"call_{code}"
        self._emit(CallDelta(self.calls - 1, call_id=call_id, name=name))

    def _emit(self, delta: CallDelta) -> None:
        if self._several or delta.index == 0:
            self._parts.append(delta)

    def _read_arguments(self) -> bool:
        if not self._held:
            return False
        end = self._value.find(self._held)
        piece = self._held if end is None else self._held[:end]
        self._emit(CallDelta(self.calls - 1, arguments=piece))
        if end is None:
            self._held, self._value = "", self._value.moved(len(piece))
            return False
        self._held, self._mode, self._value = self._held[end:], _Mode.TAIL, _ObjectEnd(depth=1)
        return True

    def _read_tail(self) -> bool:
        """What else the call says has no meaning."""
        end = self._value.find(self._held)
        if end is None:
            return False
        self._held, self._mode = self._held[end:], _Mode.AFTER
        return True

    def _read_after(self) -> bool:
        """The end mark or what separates calls; then another call or text."""
        text, end = self._held.lstrip(), self._format.end
        if self._format.array or not self._format.begin:
            if not text:
                return False
            if text[0] in ",;":
                self._open("", text[1:])
            else:
                self._held, self._mode = text.removeprefix("]") if self._format.array else text, _Mode.REST
            return True
        if end.startswith(text) and text != end:
            return False
        self._held, self._mode = text.removeprefix(end), _Mode.TEXT
        return True


class _ObjectEnd:
    """Where a JSON object that begins at the first brace of a growing text ends; with `depth` 1 it has begun before."""

    def __init__(self, *, depth: int = 0) -> None:
        self._place = 0
        self._depth = depth
        self._in_string = False
        self._escaped = False

    def find(self, text: str) -> int | None:
        """The index after the closing brace, once it is there. `text` is what it was, and more."""
        for index in range(self._place, len(text)):
            char = text[index]
            if self._in_string:
                if self._escaped:
                    self._escaped = False
                elif char == "\\":
                    self._escaped = True
                elif char == '"':
                    self._in_string = False
            elif char == '"':
                self._in_string = True
            elif char in "{[":
                self._depth += 1
            elif char in "}]":
                self._depth -= 1
                if self._depth <= 0:
                    self._place = index + 1
                    return index + 1
        self._place = len(text)
        return None

    def moved(self, characters: int) -> _ObjectEnd:
        """The same when the first characters of the text were taken away."""
        self._place -= characters
        return self


def _loaded(text: str) -> Any:
    try:
        return json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return None


def _parts_of(call: Any) -> tuple[Any, str]:
    """Name and arguments of a whole call, whatever their order; arguments may be JSON inside a string."""
    if not isinstance(call, dict) or not isinstance(call.get("name"), str):
        return None, ""
    arguments = call.get("arguments", call.get("parameters", {}))
    return call["name"], arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
