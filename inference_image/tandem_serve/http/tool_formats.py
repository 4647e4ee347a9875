"""How models write calls of tools in their text: a table, which of it a chat template means, and grammars for it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tandem_serve.engine.grammar import JSON_SPACE


@dataclass(frozen=True, kw_only=True)
class ToolFormat:
    """A call is an object with a name and arguments, between `begin` and `end`; or a list of them in `array` form.

    Without `begin` a call is all of the answer, or its start.
    """

    name: str
    begin: str
    end: str = ""
    arguments: str = "arguments"
    between: str = "\n"
    array: bool = False
    ignored_start: str = ""
    """A mark that may stand before the first call."""
    id_letters: int = 24
    """Length of a call's id after `call_`; 9 means the id is nine letters and digits, as some templates demand."""
    marks: tuple[str, ...] = ()
    """What a chat template of this format contains."""
    foreign: tuple[str, ...] = ()
    """What it does not contain: these tell of a format that looks alike."""


FORMATS: tuple[ToolFormat, ...] = (
    ToolFormat(
        name="hermes",
        begin="<tool_call>",
        end="</tool_call>",
        marks=("<tool_call>",),
        foreign=("<function=", "<arg_key>", "[TOOL_CALLS]"),
    ),
    ToolFormat(
        name="mistral",
        begin="[TOOL_CALLS]",
        between=", ",
        array=True,
        id_letters=9,
        marks=("[TOOL_CALLS]",),
        foreign=("[ARGS]",),
    ),
    ToolFormat(
        name="llama3_json",
        begin="",
        arguments="parameters",
        between="; ",
        ignored_start="<|python_tag|>",
        marks=('"parameters":', "tool_calls"),
        foreign=("<tool_call>", "[TOOL_CALLS]"),
    ),
)
BY_NAME: Mapping[str, ToolFormat] = {one.name: one for one in FORMATS}


def of_template(template: str) -> ToolFormat | None:
    """The format that a chat template teaches its model, None when it is none of ours."""
    for one in FORMATS:
        if all(mark in template for mark in one.marks) and not any(mark in template for mark in one.foreign):
            return one
    return None


@dataclass(frozen=True, kw_only=True)
class Function:
    """A function that may be called. `parameters` is the JSON schema of its arguments, an object's."""

    name: str
    parameters: Mapping[str, Any]
    path: str = ""
    """Where in the request the parameters stand."""


def grammar(
    form: ToolFormat, functions: Sequence[Function], *, several: bool, begin_token: int | None, free_text: bool
) -> str:
    """The grammar, in Lark's form, of one call or more. `begin_token`: `begin` is this special token.

    With `free_text` the answer may also be any text, and calls after it.
    """
    begin = f"<[{begin_token}]>" if begin_token is not None else _text(form.begin)
    body = "(" + " | ".join(f"f{number}" for number in range(len(functions))) + ")"
    rules = _free(form, begin, body, several=several) if free_text else _forced(form, begin, body, several=several)
    for number, function in enumerate(functions):
        head = f'{{"name": {json.dumps(function.name)}, "{form.arguments}": '
        schema = {**function.parameters, "x-guidance": {"whitespace_pattern": JSON_SPACE}}
        rules += [f'f{number}: {_text(head)} a{number} "}}"', f"a{number}: %json {json.dumps(schema)}"]
    return "\n".join(rules)


def _forced(form: ToolFormat, begin: str, body: str, *, several: bool) -> list[str]:
    calls = _calls(form, several=several)
    if form.begin and not form.array:
        return [f"start: {calls}", f'call: {begin} "\\n" {body} {_text(chr(10) + form.end)}']
    return [f"start: {begin} {calls}", f"call: {body}"]


def _free(form: ToolFormat, begin: str, body: str, *, several: bool) -> list[str]:
    """Each mark that begins a call is followed by what belongs there."""
    if not form.begin:
        return [f"start: {_calls(form, several=several)} | PLAIN?", f"call: {body}", r"PLAIN: /[^{](.|\n)*/"]
    lazy = "[lazy]" if begin.startswith('"') else ""  # text ends at the mark's first occurrence
    rules = [f"opening{lazy}: TEXT {begin}", r"TEXT: /(.|\n)*/"]
    if form.array:
        return [f"start: TEXT | opening {_calls(form, several=several)}", f"call: {body}", *rules]
    times = "*" if several else "?"
    return [f"start: call{times} TEXT", f'call: opening "\\n" {body} {_text(chr(10) + form.end)}', *rules]


def _calls(form: ToolFormat, *, several: bool) -> str:
    more = f"call ({_text(form.between)} call)*" if several else "call"
    return f'"[" {more} "]"' if form.array else more


def _text(literal: str) -> str:
    return json.dumps(literal) if literal else ""
