"""Calls in the text of an answer: the forms models write them in, cut anywhere, and texts that only look like calls."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem_serve.http import tool_formats
from tandem_serve.http.tool_parser import CallDelta, ToolParser

NAMES = ("f", "g.h", 'o"dd\\ é')


def read(form: str, pieces: list[str], *, several: bool = True) -> tuple[str, list[tuple[str | None, str]]]:
    """The text beside the calls, and the calls with their arguments."""
    parser = ToolParser(tool_formats.BY_NAME[form], NAMES, several=several)
    parts = [part for piece in pieces for part in parser.push(piece)] + parser.finish()
    text = "".join(part for part in parts if isinstance(part, str))
    calls: dict[int, list[Any]] = {}
    for part in parts:
        if isinstance(part, CallDelta):
            call = calls.setdefault(part.index, [part.name, ""])
            call[1] += part.arguments
    return text, [(name, arguments) for name, arguments in calls.values()]


def call(name: str, arguments: Any, *, key: str = "arguments") -> str:
    return json.dumps({"name": name, key: arguments})


WRITTEN = {
    "hermes": lambda calls: "\n".join(f"<tool_call>\n{call(*one)}\n</tool_call>" for one in calls),
    "mistral": lambda calls: "[TOOL_CALLS] [" + ", ".join(call(*one) for one in calls) + "]",
    "llama3_json": lambda calls: "<|python_tag|>" + "; ".join(call(*one, key="parameters") for one in calls),
}
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.sampled_from(['"}', "</tool_call>", "{["]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
CALLS = st.lists(
    st.tuples(st.sampled_from(NAMES), st.dictionaries(st.text(max_size=3), VALUES, max_size=3)), min_size=1, max_size=3
)


@given(form=st.sampled_from(sorted(WRITTEN)), calls=CALLS, data=st.data())
@settings(max_examples=150, deadline=None)
def test_calls_are_found_wherever_the_text_is_cut(form: str, calls: list[tuple[str, Any]], data: st.DataObject) -> None:
    text = WRITTEN[form](calls)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=6)))
    pieces = [text[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    for given_pieces in (pieces, list(text)):
        beside, found = read(form, given_pieces)
        assert beside.strip() == ""
        assert [(name, json.loads(arguments)) for name, arguments in found] == calls


@given(form=st.sampled_from(sorted(WRITTEN)), text=st.text(alphabet='<tool_cal>[]{}":,/TOLCAS name;\n', max_size=60))
@settings(max_examples=150, deadline=None)
def test_what_is_no_call_stays_text_to_the_last_character(form: str, text: str) -> None:
    assert read(form, list(text)) == (text, [])


@pytest.mark.parametrize(
    ("form", "text", "expected"),
    [
        ("hermes", f"Let me see. {WRITTEN['hermes']([('f', {})])}", ("Let me see. ", [("f", "{}")])),
        ("hermes", '<tool_call>{"arguments": {"a": 1}, "name": "f"}</tool_call>', ("", [("f", '{"a": 1}')])),
        ("hermes", '<tool_call>{"name": "f", "arguments": "{}"}</tool_call>', ("", [("f", "{}")])),
        ("hermes", '<tool_call>{"name": "f"}</tool_call>', ("", [("f", "{}")])),
        ("hermes", '<tool_call>\n{"name": "f", "arguments": {"a": [1, ', ("", [("f", '{"a": [1, ')])),
        ("hermes", "<tool_call>\nno</tool_call>", ("<tool_call>\nno</tool_call>", [])),
        ("hermes", call("f", {}), (call("f", {}), [])),
        ("mistral", f"[TOOL_CALLS] [{call('unknown', {})}]", (f"[TOOL_CALLS] [{call('unknown', {})}]", [])),
        ("mistral", f'[TOOL_CALLS][{{"name": "f", "arguments": {{}}, "id": "}}"}}, {call("f", {})}]',
         ("", [("f", "{}"), ("f", "{}")])),
        ("llama3_json", f"So: {call('f', {})}", (f"So: {call('f', {})}", [])),
        ("llama3_json", '{"answer": 5}', ('{"answer": 5}', [])),
    ],
)  # fmt: skip
def test_forms_by_example(form: str, text: str, expected: tuple[str, list[tuple[str, str]]]) -> None:
    assert read(form, [text]) == expected
    assert read(form, list(text)) == expected


def test_only_one_call_where_only_one_is_allowed() -> None:
    text = WRITTEN["hermes"]([("f", {}), ("f", {"a": 1})])
    assert read("hermes", [text], several=False)[1] == [("f", "{}")]


def test_arguments_come_while_they_are_written() -> None:
    parser = ToolParser(tool_formats.BY_NAME["hermes"], NAMES, several=True)
    assert parser.push('<tool_call>\n{"name": "f", "arguments": ') == []
    head, first = parser.push('{"a": "one')
    assert isinstance(head, CallDelta)
    assert (head.name, head.arguments) == ("f", "")
    assert first == CallDelta(0, arguments='{"a": "one')
    assert parser.push(" two") == [CallDelta(0, arguments=" two")]
    assert parser.push('"}}\n</tool_call>') == [CallDelta(0, arguments='"}')]


def test_ids_are_as_the_template_wants_them() -> None:
    def first_id(form: str) -> str:
        parser = ToolParser(tool_formats.BY_NAME[form], NAMES, several=True)
        (head, *_) = parser.push(WRITTEN[form]([("f", {})]))
        assert isinstance(head, CallDelta)
        return head.call_id or ""

    assert first_id("hermes").startswith("call_")
    assert first_id("mistral").isalnum()
    assert len(first_id("mistral")) == 9


@pytest.mark.parametrize(
    ("template", "form"),
    [
        ("{% for t in tools %}{{ t }}{% endfor %}<tool_call>\\n{'name': ...}\\n</tool_call>", "hermes"),
        ("[AVAILABLE_TOOLS]{{ tools }}[/AVAILABLE_TOOLS][TOOL_CALLS]", "mistral"),
        (
            'Respond in the format {"name": function name, "parameters": dictionary}. {% if m.tool_calls %}',
            "llama3_json",
        ),
        ("<tool_call>\\n<function=name>", None),
        ("[TOOL_CALLS]name[ARGS]{}", None),
        ("{{ tools }}", None),
    ],
)
def test_the_form_is_known_from_the_chat_template(template: str, form: str | None) -> None:
    found = tool_formats.of_template(template)
    assert (found.name if found else None) == form
