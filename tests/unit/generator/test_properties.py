"""Whatever is put in: a result or a located refusal; and the same result every time."""

import copy
import json

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tandem.api.problems import Refused
from tandem.generator.api import DynamoConfig, generate_backend_config
from tandem.generator.calls import backend_configs, generate_backend_artifacts, generate_config_from_input_dict
from tandem.generator.overrides import parse_overrides
from tandem.generator.schemas import load_schema, parse_schema
from tandem.rendering.library import load_library
from tandem.rendering.mapping import PARAMETER_NAMES, Unsupported
from tests.unit.rendering.test_honoured import VALUES

LIBRARY, OTHER_LIBRARY = load_library(), load_library()
SCHEMA = load_schema()
BACKENDS = sorted(backend for backend, tables in LIBRARY.tables.items() if tables)
PATIENT = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=6,
)
parameters = [f"Workers.{role}.{name}" for role in ("agg", "decode") for name in PARAMETER_NAMES]
keys = st.sampled_from([*SCHEMA.entries, *parameters])


def nested(dotted):
    found = {}
    for key, value in dotted.items():
        *outer, last = key.split(".")
        node = found
        for name in outer:
            node = node.setdefault(name, {})
        node[last] = value
    return found


BASE = {"ServiceConfig.model_path": "org/model", "ServiceConfig.served_model_name": "model"}


def honoured(backend, mode):
    """Parameters of a role, each with a value that the backend honours in that mode."""
    entries = LIBRARY.table(backend, None).entries
    values = {
        name: [value for value in fitting if not isinstance(entries[name].target(value, mode), Unsupported)]
        for name, fitting in VALUES.items()
    }
    few = st.lists(st.sampled_from([name for name, found in values.items() if found]), unique=True, max_size=4)
    return few.flatmap(lambda names: st.fixed_dictionaries({name: st.sampled_from(values[name]) for name in names}))


@st.composite
def valid_inputs(draw):
    """An input for a backend, in either mode, with parameters of every kind."""
    backend, mode = draw(st.sampled_from(BACKENDS)), draw(st.sampled_from(["agg", "disagg"]))
    shared = draw(honoured(backend, mode))
    roles = ["agg"] if mode == "agg" else ["prefill", "decode"]
    raw = {**nested(BASE), "Workers": {role: listed(shared | draw(honoured(backend, mode))) for role in roles}}
    if draw(st.booleans()):
        raw["SlaConfig"] = {"isl": draw(st.integers(1, 10_000))}
    return backend, raw


def listed(parameters):
    """Parameters as JSON has them."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in parameters.items()}


def located(call):
    """The call gives a result, or refuses with a path and a reason for every problem."""
    problems = None
    try:
        call()
    except Refused as refused:
        problems = refused.problems
    assert problems is None or (problems and all(problem.path and problem.reason for problem in problems))


@PATIENT
@given(raw=anything)
def test_any_value_as_an_input_is_read_or_refused(raw):
    located(lambda: generate_config_from_input_dict(raw, backend="vllm", library=LIBRARY))


@PATIENT
@given(dotted=st.dictionaries(keys, anything, max_size=4), backend=st.sampled_from(BACKENDS))
def test_any_value_of_any_key_is_used_or_refused(dotted, backend):
    raw = nested({**BASE, **dotted})
    before = copy.deepcopy(raw)

    def run():
        params = generate_config_from_input_dict(raw, backend=backend, library=LIBRARY)
        return generate_backend_artifacts(params, backend, library=LIBRARY)

    located(run)
    assert repr(raw) == repr(before)


@PATIENT
@given(item=st.text(max_size=60) | st.builds("{}={}".format, keys, st.text(max_size=30)))
def test_any_text_after_set_is_read_or_refused(item):
    located(lambda: parse_overrides([item], schema=SCHEMA))
    located(lambda: parse_overrides([], texts=[item], schema=SCHEMA))


@PATIENT
@given(document=anything)
def test_any_value_as_a_schema_is_read_or_refused(document):
    located(lambda: parse_schema(document, "schema"))
    located(lambda: parse_schema({"inputs": [document]}, "schema"))


@PATIENT
@given(
    cfg=st.dictionaries(
        st.sampled_from(["model_name", "isl", "osl", "nextn", "is_moe", "total_gpus", "agg_worker_config"]), anything
    ),
    extras=st.dictionaries(st.sampled_from(["tp", "bs", "agg_tp", "decode_tp", "k8s_namespace", "x"]), anything),
)
def test_any_configuration_of_the_first_api_is_used_or_refused(cfg, extras):
    full = {"model_name": "org/model", "serving_mode": "agg", **cfg}
    overrides = DynamoConfig(extras)

    located(lambda: generate_backend_config.from_runtime(full, "vllm", overrides=overrides, library=LIBRARY))


@PATIENT
@given(item=valid_inputs())
def test_the_same_input_gives_the_same_bytes_and_stays_as_it_is(item):
    backend, raw = item
    before = json.dumps(raw)

    def run():
        params = generate_config_from_input_dict(raw, backend=backend, library=LIBRARY)
        kept = json.dumps(params)
        first = generate_backend_artifacts(params, backend, library=LIBRARY)
        assert backend_configs(params, backend, library=LIBRARY) == backend_configs(params, backend, library=LIBRARY)
        assert generate_backend_artifacts(params, backend, library=OTHER_LIBRARY) == first
        assert json.dumps(params) == kept
        return first

    located(run)
    assert json.dumps(raw) == before


def test_most_of_those_inputs_are_served():
    served = []

    @settings(deadline=None, max_examples=80, database=None, derandomize=True)
    @given(item=valid_inputs())
    def draw(item):
        backend, raw = item
        try:
            params = generate_config_from_input_dict(raw, backend=backend, library=LIBRARY)
            served.append(bool(generate_backend_artifacts(params, backend, library=LIBRARY)))
        except Refused:
            served.append(False)

    draw()
    assert sum(served) > len(served) / 3
