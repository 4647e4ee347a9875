"""Templates: values stay values, and nothing but the given names is within reach."""

import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tandem.api.problems import Refused
from tandem.rendering.templates import MAX_DEPTH, compile_template, is_plainly_shallow, template_environment
from tandem.rendering.text import to_json

ENVIRONMENT = template_environment()


def compiled(source):
    return compile_template(ENVIRONMENT, location="templates/x.j2", source=source)


def refusal(source, **names):
    with pytest.raises(Refused) as refused:
        compiled(source).render(names)
    return str(refused.value)


NASTY = [
    'a"; touch /tmp/x "',
    "line\nbreak: [1]",
    "$(id) `id`",
    "{{ 7 * 7 }}{% raw %}",
    "- x: *y",
    "\x07\x85\u2028",
    "🙂",
    "",
]


@pytest.mark.parametrize("value", NASTY)
def test_a_value_stays_one_value(value):
    _, document = compiled("- {{ x }}\n- key: {{ x }}\n").render({"x": value})

    assert document == [value, {"key": value}]


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_is_read_back_by_yaml_and_json(value):
    text = to_json(value)

    assert json.loads(text) == value
    assert yaml.safe_load(f"- {text}\n") == [value]
    assert "\n" not in text


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("- {{ n }}\n- {{ 'a' ~ n }}\n", [3, "a3"]),
        ("{% if n > 2 %}\n- {{ n }}\n{% endif %}\n- b\n", [3, "b"]),
        ("{% for x in items %}\n- {{ x }}\n{% endfor %}\n", ["p", "q"]),
        ("- {{ {'k': items} | to_json }}\n", ['{"k": ["p", "q"]}']),
        ("- {{ [n, 2] | min }}\n", [2]),
        ("- {{ missing | default(4096) }}\n", [4096]),
        ("{# nothing #}\n- x\n", ["x"]),
    ],
)
def test_templates_render_to_data(source, expected):
    assert compiled(source).render({"n": 3, "items": ["p", "q"]})[1] == expected


@pytest.mark.parametrize(
    "source",
    [
        "- --name={{ x }}\n",
        '- "{{ x }}"\n',
        "- '{{ x }}'\n",
        "- {{ x }}/tail\n",
        "- {{ x }}{{ x }}\n",
        "{{ x }}\n",
        "- a, {{ x }}\n",
        "- [{{ x }}]\n",
    ],
)
def test_an_expression_that_is_a_part_of_a_value_is_refused_when_loaded(source):
    assert refusal(source).startswith("templates/x.j2:1: an expression must be a whole value")


# A source, and a part of what is told of it.
WRONG = [
    ("- {{ nope }}\n", "templates/x.j2:1: the template fails: 'nope' is undefined"),
    ("- a\n- {{ x.nope }}\n", "templates/x.j2:2: the template fails"),
    ("- {{ x\n", "templates/x.j2:1: malformed template"),
    ("- a\n{% endfor %}\n", "templates/x.j2:2: malformed template"),
    ("{% include 'y' %}\n", "templates/x.j2:1: a template cannot read other templates"),
    ("{% import 'y' as z %}\n", "a template cannot read other templates"),
    ("{% extends 'y' %}\n", "a template cannot read other templates"),
    ("{% macro m() %}{{ m() }}{% endmacro %}", "templates/x.j2:1: macros are not allowed"),
    ("{% for a in x %}{% for b in x %}{% endfor %}{% endfor %}", "loops inside loops are not allowed"),
    ("{% for a in x recursive %}{{ loop(x) }}{% endfor %}", "loops inside loops are not allowed"),
    ("- {{ x | random }}\n", "No filter named 'random'"),
    ("- {{ x | center(1000000000) }}\n", "No filter named 'center'"),
    ("- {{ range(3) }}\n", "templates/x.j2:1: a template calls nothing"),
    ("- {{ range }}\n", "'range' is undefined"),
    ("- {{ cycler.__init__ }}\n", "unsafe"),
    ("- {{ x.__class__.__mro__ }}\n", "unsafe"),
    ("- {{ ''.join.__self__ }}\n", "unsafe"),
    ("- {{ x * 1000000000 }}\n", "* is for numbers only"),
    ("- {{ 9 ** 9 }}\n", "** is not allowed"),
    ("- {{ '%099999999d' % 1 }}\n", "% is not allowed"),
    ("- {{ x.append(1) }}\n", "a template calls nothing"),
    ("a: [1\n", "the template does not give YAML, line"),
    ("# " + "x" * 70_000, "the template is too long"),
]
EXACTLY = json.loads((Path(__file__).parent / "wrong_templates.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(("source", "reason"), WRONG)
def test_s0_41_what_cannot_be_is_a_located_error(source, reason):
    assert reason in refusal(source, x="v")


@pytest.mark.parametrize("source", [source for source, _ in WRONG if len(source) < 1000])
def test_s0_41_what_cannot_be_is_told_word_for_word(source):
    assert refusal(source, x="v") == EXACTLY[source]


def places(source):
    """Where the mistakes of a template are; anything but `Refused` gets out and fails the test."""
    try:
        compiled(source).render({"x": "v"})
    except Refused as refused:
        return [problem.path for problem in refused.problems]
    return []


@given(st.text(alphabet="{}%- \nxa\"':#[]|~", max_size=40))
def test_any_template_gives_data_or_a_located_error(source):
    assert all(place.startswith("templates/x.j2") for place in places(source))


def depth_of(text):
    """The levels and aliases that YAML's own parser finds; None for text that is no YAML."""
    depth = deepest = aliases = 0
    try:
        for event in yaml.parse(text, Loader=yaml.CSafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            deepest = max(deepest, depth)
            aliases += isinstance(event, yaml.AliasEvent)
    except yaml.YAMLError:
        return None
    return deepest, aliases


PIECES = st.sampled_from(
    [
        *("- ", "? ", ": ", "a: ", "a", "1", "[", "]", "{", "}", ", ", "\n", "\r\n", "\x85", "\u2028", " ", "  ", "\t"),
        *("&x ", "*x", "!!seq ", "!!map ", "| \n", "'a'", '"- [{"', "# c", "---\n", "-", ":", "?"),
    ]
)


@given(st.lists(PIECES, max_size=40).map("".join), st.integers(1, 40))
def test_what_looks_shallow_is_shallow(piece, times):
    text = piece * times

    found = depth_of(text)

    assert not (is_plainly_shallow(text) and found and (found[0] > MAX_DEPTH or found[1]))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("- a\n- --b\n", True),
        ('- "{\\"a\\": [1]}"\n', True),
        ("- *a\n", False),
        ("- " * 40 + "x", False),
        ("[" * 40, False),
        ("\n".join(" " * level + "a:" for level in range(40)), False),
        ("\n".join(line for level in range(20) for line in (" " * level + "a:", " " * level + "-")), False),
    ],
)
def test_what_looks_shallow(text, expected):
    assert is_plainly_shallow(text) is expected
