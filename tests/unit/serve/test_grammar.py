"""Constrained decoding in the engine: whatever the model and the schema, an answer that ends by itself is valid."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem_serve.backend import build_core
from tandem_serve.engine import grammar_trial
from tandem_serve.engine.core import EngineCore
from tandem_serve.engine.grammar import Grammar, GrammarCompiler, GrammarError, lark_source, schema_source
from tandem_serve.engine.loader import LoadedModel
from tandem_serve.engine.types import FinishReason, SamplingParams, SequenceRequest
from tandem_serve.http import tool_formats
from tandem_serve.http.tool_formats import Function
from tests.unit.serve import tiny

NAMES = st.sampled_from(["a", "b c", "é", 'q"uote', "日本", ""])
LEAVES = st.one_of(
    st.just({"type": "boolean"}),
    st.just({"type": "null"}),
    st.integers(-50, 50).map(lambda least: {"type": "integer", "minimum": least, "maximum": least + 30}),
    st.just({"type": "number", "exclusiveMinimum": 0}),
    st.integers(0, 4).map(lambda size: {"type": "string", "maxLength": size}),
    st.sampled_from([{"type": "string", "pattern": "^[a-f]{2,4}$"}, {"type": "string", "format": "date"}]),
    st.lists(st.integers() | st.text(max_size=4) | st.none(), min_size=1, max_size=3).map(lambda some: {"enum": some}),
)


def _object(properties: dict[str, Any], required: list[str], *, closed: bool) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties, "required": [one for one in required if one in properties]}
    return schema | ({"additionalProperties": False} if closed else {})


def _nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(
        st.tuples(inner, st.integers(0, 2)).map(
            lambda pair: {"type": "array", "items": pair[0], "minItems": pair[1], "maxItems": 2}
        ),
        st.lists(inner, min_size=1, max_size=2).map(lambda some: {"anyOf": some}),
        st.builds(
            _object,
            st.dictionaries(NAMES, inner, max_size=3),
            st.lists(NAMES, max_size=2, unique=True),
            closed=st.booleans(),
        ),
    )


SCHEMAS = st.recursive(LEAVES, _nested, max_leaves=5)


@pytest.fixture(scope="module")
def engine(llama: LoadedModel) -> EngineCore:
    return build_core(tiny.settings(Path("x")), llama).engine


@pytest.fixture(scope="module")
def compiler(llama: LoadedModel) -> GrammarCompiler:
    return GrammarCompiler(
        llama.tokenizer, vocab_size=llama.vocab_size, eos_ids=llama.eos_ids, check=lambda _source: ""
    )


def answers(engine: EngineCore, grammar: Grammar, *, count: int, **sampling: Any) -> list[tuple[str, FinishReason]]:
    params = {"max_tokens": 60, "temperature": 1.0, "grammar": grammar, **sampling}
    for number in range(count):
        one = SamplingParams(**{"seed": number, **params})
        engine.add(SequenceRequest(seq_id=number, request_id="r", prompt=(40, 41, 42), sampling=one))
    texts = dict.fromkeys(range(count), "")
    finished: dict[int, FinishReason] = {}
    while len(finished) < count:
        for update in engine.step()[0]:
            texts[update.seq_id] += update.text
            if update.finish is not None:
                finished[update.seq_id] = update.finish.reason
    return [(texts[number], finished[number]) for number in range(count)]


@given(schema=SCHEMAS, greedy=st.booleans())
@settings(max_examples=15, deadline=None)
def test_an_answer_that_ends_by_itself_satisfies_its_schema(
    engine: EngineCore, compiler: GrammarCompiler, schema: dict[str, Any], greedy: bool
) -> None:
    grammar = compiler.compile(schema_source(schema))
    for text, finish in answers(engine, grammar, count=2, temperature=0.0 if greedy else 1.5):
        assert finish in (FinishReason.STOP, FinishReason.LENGTH)
        if finish is FinishReason.STOP:
            jsonschema.validate(json.loads(text), schema)


def test_a_state_is_not_shared_between_sequences(engine: EngineCore, compiler: GrammarCompiler) -> None:
    grammar = compiler.compile(schema_source({"enum": ["one", "two", "three"]}))
    found = {text for text, _ in answers(engine, grammar, count=8)}
    assert len(found) > 1
    assert found <= {'"one"', '"two"', '"three"'}


def test_an_answer_ends_where_nothing_may_follow_at_its_last_token(
    engine: EngineCore, compiler: GrammarCompiler
) -> None:
    grammar = compiler.compile(lark_source('start: "the quick"'))
    whole = answers(engine, grammar, count=1, max_tokens=60, temperature=0.0)
    assert whole == [("the quick", FinishReason.STOP)]
    assert answers(engine, grammar, count=1, max_tokens=len("the quick"), temperature=0.0) == whole


def test_ends_that_come_too_early_are_forbidden_unless_nothing_else_is_left(
    llama: LoadedModel, compiler: GrammarCompiler
) -> None:
    state = compiler.compile(lark_source('start: "a" "b"?')).start()
    a, b = (llama.tokenizer.convert_tokens_to_ids(letter) for letter in "ab")
    state.accept(a)
    assert not state.forbidden()[1]
    assert state.forbidden([1])[1]
    state.accept(b)
    assert state.complete


def test_an_impossible_token_is_an_error(compiler: GrammarCompiler) -> None:
    state = compiler.compile(lark_source('start: "a"')).start()
    impossible = int(np.flatnonzero(state.forbidden())[0])
    with pytest.raises(GrammarError):
        state.accept(impossible)


def test_tokens_that_the_tokenizer_does_not_have_are_never_allowed(llama: LoadedModel) -> None:
    compiler = GrammarCompiler(llama.tokenizer, vocab_size=llama.vocab_size + 40, eos_ids=llama.eos_ids)
    forbidden = compiler.compile(lark_source("start: /(.|\\n)*/")).start().forbidden()
    assert forbidden[llama.vocab_size :].all()
    assert not forbidden[llama.vocab_size - 10 : llama.vocab_size].all()


def test_a_grammar_is_judged_before_it_is_compiled() -> None:
    assert grammar_trial.check(schema_source({"type": "object"})) == ""
    with pytest.raises(GrammarError, match="Unimplemented"):
        GrammarCompiler(None, vocab_size=1, eos_ids=()).compile(schema_source({"not": {}}))


def test_a_grammar_that_was_compiled_is_kept(llama: LoadedModel) -> None:
    checked: list[str] = []

    def check(source: str) -> str:
        checked.append(source)
        return ""

    compiler = GrammarCompiler(llama.tokenizer, vocab_size=llama.vocab_size, eos_ids=llama.eos_ids, check=check)
    first = compiler.compile(schema_source({}))
    assert compiler.compile(schema_source({})) is first
    for number in range(40):
        compiler.compile(schema_source({"const": number}))
    assert compiler.compile(schema_source({})) is not first
    assert len(checked) == 42


@pytest.mark.parametrize(
    ("form", "opening", "wrong", "right"),
    [
        ("hermes", "hi <tool_call>\n", '{"name": "g"', '{"name": "f", "arguments": {}}\n</tool_call> and more'),
        ("mistral", "hi [TOOL_CALLS]", '[{"name": "g"', '[{"name": "f", "arguments": {}}]'),
        ("llama3_json", "", '{"name": "g"', '{"name": "f", "parameters": {}}'),
    ],
)
def test_free_text_is_free_and_calls_in_it_are_of_the_functions(
    llama: LoadedModel, compiler: GrammarCompiler, form: str, opening: str, wrong: str, right: str
) -> None:
    function = Function(name="f", parameters={"type": "object", "additionalProperties": False})
    text = tool_formats.grammar(tool_formats.BY_NAME[form], [function], several=True, begin_token=None, free_text=True)
    grammar = compiler.compile(lark_source(text))

    def allows(whole: str) -> bool:
        state = grammar.start()
        for token in llama.tokenizer.encode(whole, add_special_tokens=False):
            if state.forbidden()[token]:
                return False
            state.accept(token)
        return True

    assert allows("just text, with < and {")
    assert allows(opening + right)
    assert not allows(opening + wrong)
