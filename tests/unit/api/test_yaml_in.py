"""Reading YAML: what a text means, that nothing is read silently, and that no text takes all time or memory."""

import time

import pytest

from tandem.api.problems import Refused
from tandem.api.yaml_in import MAX_CHARACTERS, Document, read_documents

ALIASES = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"a{level}: &a{level} [{','.join([f'*a{level - 1}'] * 10)}]\n" for level in range(1, 12)
)
MERGES = "a0: &a0 {x: 1}\n" + "".join(
    f"a{level}: &a{level} {{<<: [{','.join([f'*a{level - 1}'] * 10)}]}}\n" for level in range(1, 12)
)


def read(text: str) -> Document:
    (document,) = read_documents(text, "f")
    return document


def refusal(text: str) -> str:
    with pytest.raises(Refused) as refused:
        list(read_documents(text, "f"))
    return str(refused.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: 1\nb: [x, 1.5, true, ~]", {"a": 1, "b": ["x", 1.5, True, None]}),
        ('{\n\t"a": 1,\n\t"b": [\n\t\t1]}', {"a": 1, "b": [1]}),
        ("a: &x {b: 1, c: 2}\nd: {<<: *x, c: 3}", {"a": {"b": 1, "c": 2}, "d": {"b": 1, "c": 3}}),
        ("a: &x {c: 1}\nb: &y {c: 2}\nd: {<<: [*x, *y]}", {"a": {"c": 1}, "b": {"c": 2}, "d": {"c": 1}}),
        ("a: 2026-01-31\nb: 1:30", {"a": "2026-01-31", "b": "1:30"}),
    ],
)
def test_a_text_means_what_it_means_to_kubectl(text, value):
    assert read(text).value == value


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1\nb: 2\na: 3", "f:3:1: this key is there twice, first in line 1 (got 'a'). Remove one of them."),
        ("on: 1", "f:1:1: a key must be a text (got 'on'). Put quotes around it."),
        ("1: 2", "f:1:1: a key must be a text (got '1')"),
        ("? [1]\n: 2", "f:1:3: a key must be a text"),
        ("a: .inf", "f:1:4: infinity and NaN are no numbers here"),
        ("a: !!binary aGk=", "f:1:4: binary is no kind of value here"),
        ("a: !mine 1", "f:1:4: !mine is no kind of value here"),
        ("a: !!python/object:os.system x", "f:1:4: os.system is no kind of value here"),
        ("a: 0x_", "f:1:4: this cannot be read as what it seems to be"),
        ("a: " + "9" * 5000, "f:1:4: this cannot be read as what it seems to be"),
        ("a: !!int", "f:1:4: this cannot be read as what it seems to be"),
        ("a: !!bool x", "f:1:4: this cannot be read as what it seems to be"),
        ("a: &x [*x]", "f:1:4: an alias stands inside what it stands for"),
        ("a: &x {<<: *x}", "f:1:4: an alias stands inside what it stands for"),
        ("a: *x", "f:1:4: malformed YAML: found undefined alias"),
        ("a: {<<: 3}", "f:1:9: only a map can be merged here"),
        ("a: b: c", "f:1:5: malformed YAML: mapping values are not allowed in this context"),
        ("a:\n\tb: 1", "f:2:1: malformed YAML: found character that cannot start any token. Indent with spaces"),
        ("a: 1\nb: \x00", "f:2:4: a text has no character 0x00"),
        ('a: "\\ud800"', "f:1:7: malformed YAML"),
        ("%YAML 2.0\n---\na: 1", "f:1:1: malformed YAML"),
        ("[" * 5000, "f:1:101: nested too deeply"),
        ("- " * 500_000, "f:1:201: nested too deeply"),
        (ALIASES, "its aliases expand to far too much"),
        ("a" * (MAX_CHARACTERS + 1), "f: the text is too long"),
    ],
)
def test_what_has_no_plain_meaning_is_refused_at_its_place(text, expected):
    assert expected in refusal(text)


def test_all_of_a_documents_mistakes_are_told():
    assert len(refusal("on: 1\na: .inf\nb: 1\nb: 2").splitlines()) == 3


def test_maps_that_are_merged_over_and_over_stay_small():
    assert read(MERGES).value["a11"] == {"x": 1}


@pytest.mark.parametrize("text", ["[" + "[]," * 75_000 + "]", "---\na: 1\n" * 25_000], ids=["values", "documents"])
def test_large_texts_take_time_in_proportion_to_their_length(text):
    started = time.process_time()
    assert list(read_documents(text, "f"))
    assert time.process_time() - started < 15


@pytest.mark.parametrize(
    ("location", "key", "place"),
    [
        ((), False, "f:2:1"),
        (("a",), False, "f:2:4"),
        (("a",), True, "f:2:1"),
        (("b",), False, "f:3:1"),
        (("b", "c", 1), False, "f:6:7"),
        (("b", "c", 7), False, "f:4:3"),
        (("b", "d"), False, "f:3:1"),
        (("x", "y"), False, "f:2:1"),
    ],
)
def test_a_place_is_the_scalars_or_the_key_of_a_collection_or_of_what_is_around_it(location, key, place):
    document = read("# first\na: 1\nb:\n  c:\n    - x\n    - y\n")
    assert document.position(location, key=key) == place


def test_a_scalar_is_kept_as_it_was_written():
    document = read("a: 0.330\nb: {c: 1}")
    assert document.written(("a",)) == "0.330"
    assert document.written(("b",)) is None
    assert document.written(("d",)) is None


@pytest.mark.parametrize(
    ("path", "location"),
    [
        ("a.b[1].c", ("a", "b", 1, "c")),
        ("a.b[1].d", ("a", "b", 1)),
        ("a.example.com/x", ("a", "example.com/x")),
        ("a.bc", ("a",)),
        ("rules/torch.rule:3", None),
        ("ab", None),
    ],
)
def test_a_path_as_text_is_found_as_far_as_it_exists(path, location):
    assert read("a: {b: [1, {c: 2}], example.com/x: 3}").find(path) == location
