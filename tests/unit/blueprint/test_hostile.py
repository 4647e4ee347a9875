"""Files that are cut off, wrong, or meant to do harm: located mistakes, in bounded time and memory."""

import json
import time
import tracemalloc

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tandem.api.problems import Refused
from tandem.blueprint.config import from_config
from tandem.blueprint.document import MAX_DEPTH, from_dict, parse_json, to_dict
from tandem.blueprint.families import FAMILIES
from tandem.blueprint.index import read_index
from tests.unit.blueprint.configs import DEEPSEEK_V3, GPT_OSS, GPT_OSS_DIMS, LLAMA4, NEMOTRON_NANO, config, gemma3

BASES = (
    DEEPSEEK_V3,
    NEMOTRON_NANO,
    config("gpt_oss", GPT_OSS_DIMS, **GPT_OSS),
    gemma3(2560, 34, 8, 4, 10240),
    LLAMA4,
    config("llama", (64, 2, 4, 2, 16, 128, 256)),
)
KEYS = sorted(
    {key for base in BASES for key in base} | {"layer_types", "sliding_window", "mlp_only_layers", "moe_layers"}
)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
MANY = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


def problems_of(call, *arguments, **more):
    with pytest.raises(Refused) as refused:
        call(*arguments, **more)
    return refused.value.problems


def outcome(call, *arguments, **more):
    """(what came out, problems): one of them is None."""
    try:
        return call(*arguments, **more), None
    except Refused as refused:
        return None, refused.problems


def located(problems, place):
    return all(problem.path.startswith(place) and problem.reason and problem.fix for problem in problems)


@MANY
@given(
    base=st.sampled_from(BASES),
    changes=st.dictionaries(st.sampled_from(KEYS), ANYTHING, max_size=4),
    removed=st.sets(st.sampled_from(KEYS), max_size=3),
    kind=st.none() | st.sampled_from(sorted(FAMILIES)),
)
def test_any_change_is_a_blueprint_or_located_mistakes(base, changes, removed, kind):
    document = {key: value for key, value in {**base, **changes}.items() if key not in removed}
    if kind is not None:
        document["model_type"] = kind
    blueprint, problems = outcome(from_config, document, place="config.json: ")

    if blueprint is None:
        assert located(problems, "config.json: ")
    else:
        assert blueprint.total_params > 0
        assert from_dict(json.loads(json.dumps(to_dict(blueprint)))) == blueprint


@MANY
@given(text=st.text(max_size=40) | st.binary(max_size=40).map(lambda data: data.decode("latin-1")))
def test_any_text_is_a_map_or_a_located_mistake(text):
    value, problems = outcome(parse_json, text, "config.json")

    assert isinstance(value, dict) if problems is None else located(problems, "config.json")


@MANY
@given(cut=st.integers(min_value=0, max_value=len(json.dumps(DEEPSEEK_V3)) - 1))
def test_a_file_that_is_cut_off_is_located(cut):
    (problem,) = problems_of(parse_json, json.dumps(DEEPSEEK_V3)[:cut], "config.json")

    assert problem.path.startswith("config.json:1:")


@MANY
@given(document=st.dictionaries(st.sampled_from(["metadata", "weight_map"]), ANYTHING))
def test_any_index_is_read_or_refused(document):
    index, problems = outcome(read_index, document, place="index: ")

    assert index.total_bytes > 0 if problems is None else located(problems, "index: ")


@MANY
@given(document=st.dictionaries(st.sampled_from(sorted(to_dict(from_config(BASES[-1])))), ANYTHING))
def test_any_declared_blueprint_is_read_or_refused(document):
    blueprint, problems = outcome(from_dict, {**document, "schema_version": 1}, place="b: ")

    assert blueprint.weight_bytes >= 0 if problems is None else located(problems, "b: ")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a": ' + "[" * 200_000, "nested too deeply"),
        ('{"a": ' + "[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1) + "}", "nested too deeply"),
        ('{"a": 1, "a": 2}', "the key 'a' is there twice"),
        ('{"vocab_size": ' + "9" * 10_000 + "}", "malformed JSON"),
        ("[]", "a map is needed"),
        ("", "malformed JSON"),
        (" " * 5_000_000, "too long"),
        ("[" + "0," * 600_000 + "0]", "too many values"),
    ],
    ids=lambda text: text[:24],
)
def test_a_hostile_text_is_refused(text, said):
    assert said in str(problems_of(parse_json, text, "config.json")[0])


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e999", "1e308"])
def test_a_number_that_is_none_is_refused_where_it_is_read_and_not_elsewhere(number):
    text = json.dumps({**BASES[-1], "rope_theta": 0, "num_hidden_layers": 0}).replace(
        '"num_hidden_layers": 0', '"num_hidden_layers": %s'
    )
    elsewhere = json.dumps(NEMOTRON_NANO).replace("{", '{"time_step_limit": [0.0, Infinity], ', 1)

    (problem,) = problems_of(from_config, parse_json(text % number, "config.json"))

    assert problem.path == "num_hidden_layers"
    assert from_config(parse_json(elsewhere, "config.json")).digest == from_config(parse_json(elsewhere, "c")).digest


@pytest.mark.parametrize(
    "document",
    [
        {**BASES[-1], "num_hidden_layers": 4096},
        {**NEMOTRON_NANO, "hybrid_override_pattern": "M*E-" * 1024},
        {**DEEPSEEK_V3, "quantization_config": {"quant_method": "fp8", "ignore": ["*a" * 30_000]}},
        {**DEEPSEEK_V3, "quantization_config": {"quant_method": "fp8", "ignore": [f"a{n}" for n in range(10_000)]}},
        {
            **DEEPSEEK_V3,
            "quantization_config": {"quant_method": "fp8", "ignore": [f"model.layers.{n}.x" for n in range(30_000)]},
        },
        {**BASES[-1], "vocab_size": 2**24, "hidden_size": 2**24, "intermediate_size": 2**24},
    ],
    ids=["layers", "pattern", "stars", "names", "layer names", "numbers"],
)
def test_the_largest_input_takes_bounded_time_and_memory(document):
    tracemalloc.start()
    began = time.process_time()

    outcome(from_config, document)

    assert time.process_time() - began < 5
    assert tracemalloc.get_traced_memory()[1] < 200 * 2**20
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("document", "sizes", "path"),
    [
        ({}, None, "metadata.total_size"),
        ({"metadata": {"total_size": -5}, "weight_map": {"a": "a.safetensors"}}, None, "metadata.total_size"),
        ({"metadata": {"total_size": 5}, "weight_map": {"a": "../a.safetensors"}}, None, "weight_map.a"),
        ({"metadata": {"total_size": 5}, "weight_map": {"a": 7}}, None, "weight_map.a"),
        ({"metadata": {"total_size": 5}, "weight_map": {"a": "a.safetensors"}}, {"b.safetensors": 9}, "weight_map"),
        ({"metadata": {"total_size": 5}, "weight_map": {"a": "a.st"}}, {"a.st": 4}, "metadata.total_size"),
    ],
    ids=str,
)
def test_an_index_that_does_not_add_up_is_located(document, sizes, path):
    problems = problems_of(read_index, document, place="index.json: ", sizes=sizes)

    assert problems[0].path == f"index.json: {path}"


@pytest.mark.parametrize(
    ("changed", "path"),
    [
        ({"hidden_size": 2**24, "intermediate_size": 2**24, "num_hidden_layers": 4096}, "hidden_size"),
        (
            {"head_dim": 2**24, "num_key_value_heads": 2**18, "max_position_embeddings": 2**24},
            "max_position_embeddings",
        ),
        ({"hidden_size": 2**31}, "hidden_size"),
    ],
    ids=str,
)
def test_numbers_that_other_programs_cannot_count_are_refused(changed, path):
    (problem,) = problems_of(from_config, {**BASES[-1], "hidden_size": 1, **changed})

    assert problem.path == path
