"""JSON that is deeper than parsers take is cut, and nothing else is changed."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import from_json

from tandem.kube.depth import DEEPEST, LONGEST_LINE, lines, parse, shallow


def nested(levels, inside="1"):
    return ('{"a":[' * levels + inside + "]}" * levels).encode()


@pytest.mark.parametrize("levels", [101, 450, 5_000])
def test_what_is_too_deep_becomes_null(levels):
    text = b'{"before":{"x":1},"deep":' + nested(levels) + b',"after":"y"}'

    found = from_json(shallow(text))

    assert (found["before"], found["after"]) == ({"x": 1}, "y")
    value = found["deep"]
    for _ in range((DEEPEST - 1) // 2):
        value = value["a"][0]
    assert value == {"a": None}


def test_brackets_in_texts_do_not_count():
    text = json.dumps({"a": '[{"\\"' * 1_000, "b": '\\"]}' * 1_000}).encode()

    assert shallow(text) == text
    assert from_json(shallow(b'{"c":' + nested(300, json.dumps('[{\\"')) + b',"d":' + text + b"}"))["d"] == json.loads(
        text
    )


def test_what_is_broad_stays_as_it_is():
    text = json.dumps([{"a": [n]} for n in range(10_000)]).encode()

    assert shallow(text) is text


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(VALUES)
def test_anything_beside_what_is_too_deep_is_kept(value):
    text = b"[" + nested(200) + b"," + json.dumps(value).encode() + b"]"

    assert from_json(shallow(text))[1] == value


def test_a_document_is_parsed_as_it_is_or_cut_and_what_is_none_is_refused():
    assert parse(b'{"a": [1, "x"]}') == {"a": [1, "x"]}
    deep = parse(b'{"a": ' + b"[" * 5000 + b"]" * 5000 + b', "b": 2}')
    assert deep["b"] == 2
    with pytest.raises(ValueError, match="EOF"):
        parse(b'{"a": [')


async def chunks(*parts):
    for part in parts:
        yield part


@given(st.binary(max_size=60), st.lists(st.integers(1, 7), max_size=60))
async def test_lines_are_those_of_the_whole_however_it_is_cut(text, sizes):
    cuts, rest = [], text
    for size in sizes:
        cuts.append(rest[:size])
        rest = rest[size:]
    expected = text.split(b"\n")
    found = [line async for line in lines(chunks(*cuts, rest))]
    assert found == (expected if expected[-1] else expected[:-1])


async def test_a_line_may_be_as_long_as_objects_get():
    line = b"x" * 3_000_000
    assert [found async for found in lines(chunks(line, b"\n", b"y"))] == [line, b"y"]


async def test_a_line_without_an_end_is_given_up():
    endless = chunks(*[b"x" * 1_000_000] * (LONGEST_LINE // 1_000_000 + 1))
    with pytest.raises(ValueError, match="a line of more than"):
        [line async for line in lines(endless)]
