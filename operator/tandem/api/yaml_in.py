"""YAML text to plain values, with the line and column of each; bounded in time and memory, nothing read silently."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import yaml

from tandem.api.base import Location
from tandem.api.problems import Problem, Refused, refuse, shorten

# Of the text, and of what its aliases expand to: enough for hundreds of resources, and read within seconds.
MAX_CHARACTERS = 1024 * 1024
MAX_DEPTH = 100

_MERGE = "tag:yaml.org,2002:merge"
_TEXT = "tag:yaml.org,2002:str"
_SCALARS = frozenset(f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null"))
_QUOTE = "Put quotes around it."


@dataclass(frozen=True, slots=True)
class Document:
    """One document of a file: its value, and where in the file each part stands. It is a `Places` of its own."""

    name: str
    value: object
    node: yaml.Node

    def path(self, location: Location, *, key: bool = False) -> str:
        """`file:line:column: a.b[0]` of the value at `location` (with `key`, or for maps and lists, of its key).

        A location that does not exist has the place of the nearest part around it.
        """
        return f"{self.position(location, key=key)}: {dotted(location)}"

    def position(self, location: Location, *, key: bool = False) -> str:
        """`file:line:column` of what `path` tells."""
        found = self._steps(location)
        if not found:
            return f"{self.name}:{place(self.node.start_mark)}"
        at, node = found[-1]
        at_value = len(found) == len(location) and not key and isinstance(node, yaml.ScalarNode)
        return f"{self.name}:{place((node if at_value else at).start_mark)}"

    def written(self, location: Location) -> str | None:
        """The scalar at `location` as it stands in the file."""
        found = self._steps(location)
        node = found[-1][1] if found else self.node
        exact = len(found) == len(location)
        return node.value if exact and isinstance(node, yaml.ScalarNode) else None

    def find(self, path: str) -> Location | None:
        """The location that a path as text (`spec.roles.decode.extraArgs[0]`) names, as far as it exists here.

        None when not even its first part does.
        """
        location: list[int | str] = []
        node, rest = self.node, path
        while rest:
            if isinstance(node, yaml.MappingNode):
                names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
                fitting = [name for name in names if name and re.match(rf"{re.escape(name)}(?=$|[.\[:])", rest)]
                step: int | str = max(fitting, key=len, default="")
                taken = len(str(step))
            else:
                match = re.match(r"\[(\d+)\]", rest) if isinstance(node, yaml.SequenceNode) else None
                step, taken = (int(match[1]), match.end()) if match else ("", 0)
            following = _child(node, step)
            if following is None:
                break
            location.append(step)
            node, rest = following[1], rest[taken:].removeprefix(".")
        return tuple(location) if location else None

    def _steps(self, location: Location) -> list[tuple[yaml.Node, yaml.Node]]:
        """(node of the key or item, node of the value) of each part of `location` that exists."""
        steps = []
        node = self.node
        for part in location:
            following = _child(node, part)
            if following is None:
                break
            steps.append(following)
            node = following[1]
        return steps


def place(mark: Any) -> str:
    """`line:column`, both from 1."""
    return f"{mark.line + 1}:{mark.column + 1}"


def dotted(location: Location) -> str:
    """`a.b[0]`; a lone dot for the whole document."""
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path or "."


def read_documents(text: str, name: str, *, keys_as_written: bool = False) -> Iterator[Document]:
    """The documents of `text` that are not empty; raises `Refused`, located in the file `name`.

    A key that is no text (`true`, `1`) is refused, or with `keys_as_written` is the text that stands there.
    """
    if len(text) > MAX_CHARACTERS:
        fix = f"Give files of at most {MAX_CHARACTERS // 2**20} MiB."
        raise refuse(name, f"{len(text)} characters", "the text is too long", fix)
    try:
        # libyaml builds its tree by recursion in C, which ends the process when the stack is used up.
        _check_depth(text, name)
        loader = yaml.CSafeLoader(text)
        try:
            while loader.check_node():
                node = cast("yaml.Node", loader.get_node())
                value = _Reader(loader, name, keys_as_written=keys_as_written).read(node)
                if value is not None:
                    yield Document(name, value, node)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{name}:{place(mark)}" if mark else name
        raise refuse(where, None, f"malformed YAML: {error.problem or error.context}", _advice(text, mark)) from None
    except yaml.reader.ReaderError as error:
        reason = f"a text has no character {error.character:#04x}"
        raise refuse(f"{name}:{_position(text, error.position)}", None, reason, "Give a text file.") from None


class _Reader:
    """Makes a document's value from its nodes. YAML's own loader would take the last of two equal keys, and anything
    that has no JSON form; it would not bound what aliases expand to."""

    def __init__(self, loader: Any, name: str, *, keys_as_written: bool) -> None:
        self._loader = loader
        self._name = name
        self._keys_as_written = keys_as_written
        self._done: dict[yaml.Node, tuple[object, int]] = {}
        self._open: set[yaml.Node] = set()
        self._problems: list[Problem] = []

    def read(self, node: yaml.Node) -> object:
        value, _ = self._value(node)
        if self._problems:
            raise Refused(self._problems)
        return value

    def _value(self, node: yaml.Node) -> tuple[object, int]:
        """The node's value and its size with every alias written out, in characters."""
        if node in self._done:
            return self._done[node]
        if node in self._open:
            raise self._refuse(node, None, "an alias stands inside what it stands for", "Write the value out.")
        self._open.add(node)
        found: tuple[object, int]
        if isinstance(node, yaml.MappingNode):
            found = self._mapping(node)
        elif isinstance(node, yaml.SequenceNode):
            items = [self._value(item) for item in node.value]
            found = [value for value, _ in items], 1 + sum(size for _, size in items)
        else:
            found = self._scalar(node), 1 + len(node.value)
        self._open.discard(node)
        if found[1] > 2 * MAX_CHARACTERS:
            raise self._refuse(node, None, "its aliases expand to far too much", "Write the values out.")
        self._done[node] = found
        return found

    def _mapping(self, node: yaml.MappingNode) -> tuple[object, int]:
        own: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        merged: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise self._refuse(key, None, "a key must be a text", "Write one word before the colon.")
            if key.tag == _MERGE:
                merged = {**self._merged(value), **merged}
                continue
            if key.value in own:
                reason = f"this key is there twice, first in line {own[key.value][0].start_mark.line + 1}"
                self._add(key, key.value, reason, "Remove one of them.")
            elif key.tag != _TEXT and not self._keys_as_written:
                self._add(key, key.value, "a key must be a text", _QUOTE)
            own[key.value] = key, value
        pairs = {**merged, **own}
        node.value = list(pairs.values())  # from here on the node has what it means
        items = {key: self._value(value) for key, (_, value) in pairs.items()}
        size = 1 + sum(len(key) + size for key, (_, size) in items.items())
        return {key: value for key, (value, _) in items.items()}, size

    def _merged(self, node: yaml.Node) -> dict[str, tuple[yaml.Node, yaml.Node]]:
        """The pairs that `<<: node` brings; of several maps the first that has a key gives it."""
        pairs: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        for source in node.value if isinstance(node, yaml.SequenceNode) else (node,):
            if not isinstance(source, yaml.MappingNode):
                raise self._refuse(source, None, "only a map can be merged here", "Name an alias of a map after <<.")
            self._value(source)
            pairs = {**{key.value: (key, value) for key, value in source.value}, **pairs}
        return pairs

    def _scalar(self, node: yaml.Node) -> object:
        text: str = node.value
        numbers = node.tag.endswith((":int", ":float"))
        # As in kubectl, dates and 1:30 are texts: only YAML 1.1 makes more of them.
        if node.tag == "tag:yaml.org,2002:timestamp" or (numbers and ":" in text):
            return text
        if node.tag not in _SCALARS:
            self._add(node, text, f"{node.tag.rpartition(':')[2]} is no kind of value here", _QUOTE)
            return None
        try:
            value: object = self._loader.construct_object(node)
        except (ValueError, OverflowError, LookupError):
            self._add(node, text, "this cannot be read as what it seems to be", f"Correct it. A text: {_QUOTE.lower()}")
            return None
        if isinstance(value, float) and not math.isfinite(value):
            self._add(node, text, "infinity and NaN are no numbers here", "Write a number.")
            return None
        return value

    def _add(self, node: yaml.Node, value: str, reason: str, fix: str) -> None:
        self._problems.append(Problem(f"{self._name}:{place(node.start_mark)}", shorten(value), reason, fix))

    def _refuse(self, node: yaml.Node, value: str | None, reason: str, fix: str) -> Refused:
        return refuse(f"{self._name}:{place(node.start_mark)}", value, reason, fix)


def _child(node: yaml.Node, part: int | str) -> tuple[yaml.Node, yaml.Node] | None:
    if isinstance(node, yaml.MappingNode) and isinstance(part, str):
        return next(((key, value) for key, value in reversed(node.value) if key.value == part), None)
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        return node.value[part], node.value[part]
    return None


def _position(text: str, offset: int) -> str:
    """`line:column` of the character at `offset`."""
    before = text[:offset]
    return f"{before.count(chr(10)) + 1}:{offset - before.rfind(chr(10))}"


def _advice(text: str, mark: Any) -> str:
    lines = text.splitlines()
    near = lines[max(0, mark.line - 1) : mark.line + 1] if mark else []
    if any(re.match(r"\s*\t", line) for line in near):
        return "Indent with spaces: YAML takes no tabs."
    return "Check indentation, quotes and brackets there."


def _check_depth(text: str, name: str) -> None:
    depth = 0
    for event in yaml.parse(text, Loader=yaml.CSafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                fix = f"Write at most {MAX_DEPTH} levels."
                raise refuse(f"{name}:{place(event.start_mark)}", None, "nested too deeply", fix)
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
