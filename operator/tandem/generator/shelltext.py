"""Templates of shell scripts: every `{{ expression }}` becomes one word or a part of one, quoted.

An expression may stand where the shell reads plain words, and nowhere else: not inside quotes, comments,
here-documents, arithmetic or backquotes, where quoting would not hold. That is checked when a template is loaded, as is
that it uses nothing but conditions, single loops, names and filters.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from jinja2 import Template, TemplateError, Undefined, nodes

from tandem.api.problems import Problem, Refused, refuse
from tandem.rendering.bounds import ALLOWANCE, Allowance
from tandem.rendering.templates import check_loops, compile_checked, template_environment
from tandem.rendering.values import as_text

_STATEMENTS = (nodes.Output, nodes.If, nodes.For)
_EXPRESSIONS = (
    *(nodes.TemplateData, nodes.Name, nodes.Const, nodes.Getattr, nodes.Filter, nodes.Compare, nodes.Operand),
    *(nodes.And, nodes.Or, nodes.Not, nodes.CondExpr, nodes.List, nodes.Tuple, nodes.Keyword),
)
# What would read a quoted word again, by the text that begins it.
_UNSAFE = ("`", "<<", "$((", "((", "[[", "$'", '$"')
_SCRIPT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*\.sh\.j2")
_FIX = "Put expressions between plain words: --flag {{ value }}, or --flag={{ value }}."


@dataclass(frozen=True, slots=True)
class ShellTemplate:
    """A compiled template. `location` names it in messages."""

    location: str
    template: Template

    def render(self, names: Mapping[str, object]) -> str:
        """The script; raises `Refused` for a name that does not exist and for a value that is no word."""
        try:
            return self.template.render({**names, ALLOWANCE: Allowance()})
        except (TemplateError, TypeError, ValueError, ArithmeticError, AttributeError, LookupError) as error:
            reason = f"the template fails: {str(error).rstrip('.')}"
            raise refuse(self.location, None, reason, "Correct it, or give the name a default.") from None


def compile_shell(source: str, location: str) -> ShellTemplate:
    """Compiles `source`; raises `Refused` with the line of what cannot stand there."""
    environment = template_environment().overlay(finalize=_finalize)
    compiled = compile_checked(environment, location=location, source=source, check=_checked, fix="Correct it.")
    return ShellTemplate(location, compiled)


def _checked(tree: nodes.Template, location: str) -> nodes.Template:
    _check_nodes(tree, location)
    _Scanner(location).body(tree.body)
    return tree


def _finalize(value: object) -> str:
    if isinstance(value, Undefined):
        return str(value)  # raises: the name is undefined
    if isinstance(value, list | tuple):
        return " ".join(_finalize(item) for item in value)
    if not isinstance(value, bool | int | float | str) or "\x00" in str(value):
        raise TypeError(f"{type(value).__name__} is no word of a shell")
    return shlex.quote(as_text(value))


def _check_nodes(tree: nodes.Template, location: str) -> None:
    for node in tree.find_all(nodes.Node):
        if not isinstance(node, (*_STATEMENTS, *_EXPRESSIONS)):
            kind = type(node).__name__.lower()
            raise refuse(f"{location}:{node.lineno}", kind, "this cannot be used in a script's template", _FIX)
    check_loops(tree, location)


class _Scanner:
    """Reads a script as a shell does, as far as quotes go."""

    def __init__(self, location: str) -> None:
        self._location = location
        self._state = "plain"
        self._before = "\n"

    def body(self, parts: Iterable[nodes.Node]) -> None:
        """Scans statements; blocks begin and end where the shell reads plain words."""
        line = 1
        for part in parts:
            line = part.lineno
            if isinstance(part, nodes.Output):
                for node in part.nodes:
                    if isinstance(node, nodes.TemplateData):
                        self._text(node.data, node.lineno)
                    else:
                        self._expression(node.lineno)
            else:
                self._at_boundary(line)
                branches = [part.body, part.else_] if isinstance(part, nodes.For) else self._branches(part)
                for branch in branches:
                    self.body(branch)
                    self._at_boundary(line)

    def _branches(self, part: nodes.Node) -> list[list[nodes.Node]]:
        assert isinstance(part, nodes.If)  # noqa: S101 - the only statements are checked before
        return [part.body, *(found.body for found in part.elif_), part.else_]

    def _at_boundary(self, line: int) -> None:
        if self._state != "plain" or self._before in "$\\":
            reason = "a block begins or ends inside quotes or a comment, or after $ or \\"
            raise refuse(f"{self._location}:{line}", None, reason, "Close quotes and lines in the same block.")

    def _expression(self, line: int) -> None:
        if self._state != "plain" or self._before in "$\\":
            where = {"plain": f"after {self._before}", "comment": "in a comment"}.get(self._state, "inside quotes")
            raise refuse(f"{self._location}:{line}", None, f"an expression cannot stand {where}", _FIX)
        self._before = "x"

    def _text(self, text: str, line: int) -> None:
        at = 0
        while at < len(text):
            at += self._step(text, at, f"{self._location}:{line + text.count(chr(10), 0, at)}")
            self._before = text[at - 1]

    def _step(self, text: str, at: int, where: str) -> int:
        """Takes one character, or two with a backslash; the number taken."""
        character = text[at]
        match self._state:
            case "comment":
                if character == "\n":
                    self._state = "plain"
            case "single":
                if character == "'":
                    self._state = "plain"
            case "double":
                if character == "\\":
                    return 2 if at + 1 < len(text) else self._cut(where)
                if character == "`" or text.startswith("$(", at):
                    raise refuse(where, character, "commands inside double quotes are not allowed", _FIX)
                if character == '"':
                    self._state = "plain"
            case _:
                return self._plain(text, at, where)
        return 1

    def _plain(self, text: str, at: int, where: str) -> int:
        character = text[at]
        found = next((start for start in _UNSAFE if text.startswith(start, at)), None)
        if found is not None:
            raise refuse(where, found, "a shell would read values again here", "Write it in another way.")
        if character == "\\":
            return 2 if at + 1 < len(text) else self._cut(where)
        before = text[at - 1] if at else self._before
        if character == "#" and before in " \t\n;&|(":
            self._state = "comment"
        elif character == "'":
            self._state = "single"
        elif character == '"':
            self._state = "double"
        return 1

    def _cut(self, where: str) -> int:
        raise refuse(where, "\\", "an expression cannot stand after \\", _FIX)


def compile_scripts(texts: Mapping[object, object], location: str) -> dict[str, ShellTemplate]:
    """Compiled templates by the name of the script that each becomes; raises `Refused` with every mistake."""
    found: dict[str, ShellTemplate] = {}
    problems: list[Problem] = []
    for name, text in texts.items():
        where = f"{location}: {name}"
        try:
            if not isinstance(name, str) or not _SCRIPT.fullmatch(name) or not isinstance(text, str):
                raise refuse(where, None, "a template in a mapping file is a script", "Name it like run.sh.j2.")
            found[name.removesuffix(".j2")] = compile_shell(text, where)
        except Refused as refused:
            problems += refused.problems
    if problems:
        raise Refused(problems)
    return found
