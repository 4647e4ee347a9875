"""Rendering is pure: the same input gives the same bytes, any number of times, in any order, in any process.

Inputs are drawn for every backend, version and mode that is served, from the values that its mapping table takes.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from pydantic.alias_generators import to_camel

from tandem.api.deployment import ModelDeployment
from tandem.api.parameters import EngineParameters
from tandem.api.problems import Refused
from tandem.blueprint.model import Blueprint
from tandem.manifests import Build, Cluster, build
from tandem.manifests.backends import BACKENDS
from tandem.manifests.yaml_out import to_yaml
from tandem.rendering.library import load_library
from tandem.rendering.mapping import Unsupported
from tests.unit.manifests.deployments import deployment

ROOT = Path(__file__).parents[3]
LIBRARY = load_library()
SERVED = [
    (backend, version, mode)
    for backend, tables in LIBRARY.tables.items()
    if backend in BACKENDS
    for version in tables
    for mode in ("agg", "disagg")
]
SOME = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
# Rules that would grow, or depend on an order, if they ever saw their own results.
RULES = (
    "max_batch_size = 512 if (max_batch_size or 0) < 512 else max_batch_size * 2",
    "max_batch_size = 3\nmax_num_tokens = (max_num_tokens or 100) + max_batch_size\nmax_batch_size = 4",
    "when isl and isl > 100:\n    decode max_batch_size = isl // 100\nagg max_seq_len = (isl or 0) + 1500",
)
BLUEPRINT = Blueprint(
    digest="0", max_seq_len=32768, total_params=None, weight_bytes=10**10, kv_bytes_per_token=None, is_moe=True, nextn=1
)
Input = tuple[ModelDeployment, str, Blueprint | None]


def candidates() -> list[Any]:
    """Values of every kind, and every word that some table knows."""
    words = {
        word
        for tables in LIBRARY.tables.values()
        for table in tables.values()
        for entry in table.entries.values()
        for word in (*(entry.values or ()), *(entry.cases or ()))
    }
    return [True, False, 1, 2, 8, 64, 1000, 0.5, (1, 2, 4), (8,), *sorted(words)]


def fits(name: str, value: object) -> bool:
    """Whether a parameter can have the value at all."""
    try:
        EngineParameters.model_validate({name: value}, by_name=True, by_alias=False)
    except ValidationError:
        return False
    return True


FITTING = {name: [value for value in candidates() if fits(name, value)] for name in EngineParameters.model_fields}


def parameters(backend: str, version: str, mode: str) -> st.SearchStrategy[dict[str, Any]]:
    """Parameters, each with a value that the backend's version can honour in that mode."""
    entries = LIBRARY.tables[backend][version].entries
    honoured = {
        to_camel(name): [
            list(value) if isinstance(value, tuple) else value
            for value in values
            if not isinstance(entries[name].target(value, mode), Unsupported)
        ]
        for name, values in FITTING.items()
    }
    few = st.lists(st.sampled_from([name for name, values in honoured.items() if values]), unique=True, max_size=5)
    return few.flatmap(lambda names: st.fixed_dictionaries({name: st.sampled_from(honoured[name]) for name in names}))


@st.composite
def inputs(draw: st.DrawFn, served: tuple[str, str, str] | None = None) -> Input:
    """A deployment, the text of its own rules ('' for the shipped ones), and what is known of its model."""
    backend, version, mode = served or draw(st.sampled_from(SERVED))
    drawn = parameters(backend, version, mode)
    roles = ("agg",) if mode == "agg" else ("prefill", "decode")
    spec: dict[str, Any] = {
        "backend": backend,
        "backendVersion": version,
        "mode": mode,
        "parameters": draw(drawn),
        "roles": {role: {"parameters": draw(drawn), "replicas": draw(st.integers(0, 3))} for role in roles},
        "rules": {"set": draw(st.sampled_from(["production", "benchmark"]))},
    }
    if draw(st.booleans()):
        spec["sla"] = {"isl": draw(st.integers(1, 10_000)), "osl": draw(st.integers(1, 2000))}
    text = draw(st.sampled_from(("", *RULES)))
    if text:
        spec["rules"]["configMapRef"] = {"name": "mine"}
    return deployment(**spec), text, draw(st.sampled_from([None, BLUEPRINT]))


def cluster_of(source: ModelDeployment, text: str, library: Any = LIBRARY) -> Cluster:
    """The cluster with the ConfigMap of the deployment's rules."""
    return Cluster(library=library, rules={f"{source.spec.backend}.rule": text} if text else {})


def result(item: Input, library: Any = LIBRARY) -> Build | str:
    """What an input becomes: the build, or why there is none."""
    source, text, blueprint = item
    try:
        return build(source, blueprint=blueprint, cluster=cluster_of(source, text, library))
    except Refused as refused:
        return str(refused)


def as_bytes(item: Input) -> bytes:
    """The bytes that an input becomes."""
    found = result(item)
    return (found if isinstance(found, str) else to_yaml(found)).encode()


@SOME
@given(items=st.lists(inputs(), min_size=1, max_size=3), again=st.permutations(range(3)))
def test_the_same_input_gives_the_same_bytes_in_any_order_and_stays_untouched(items, again):
    before = [(source.model_dump_json(), blueprint) for source, _, blueprint in items]

    first = [as_bytes(item) for item in items]
    for index in (*again, *again):
        if index < len(items):
            assert as_bytes(items[index]) == first[index]

    assert [(source.model_dump_json(), blueprint) for source, _, blueprint in items] == before


@SOME
@given(item=inputs())
def test_a_result_is_not_changed_by_the_next_and_needs_nothing_kept(item):
    source, text, blueprint = item
    first = result(item)
    kept = copy.deepcopy(first)

    again = result((source.model_copy(deep=True), text, blueprint), load_library())

    assert first == kept == again


@SOME
@given(item=inputs())
def test_the_order_of_keys_in_the_input_does_not_matter(item):
    source, text, blueprint = item
    turned = ModelDeployment.model_validate(backwards(source.model_dump(mode="json", by_alias=True)), strict=False)

    assert as_bytes((turned, text, blueprint)) == as_bytes(item)


def backwards(value: Any) -> Any:
    """The document with the keys of each object in the opposite order."""
    if isinstance(value, dict):
        return {key: backwards(value[key]) for key in reversed(value)}
    return [backwards(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("served", SERVED)
def test_many_inputs_are_served_on_every_backend_and_in_both_modes(served):
    found = []

    @settings(max_examples=20, deadline=None, database=None, derandomize=True)
    @given(item=inputs(served=served))
    def draw(item):
        found.append(isinstance(result(item), Build))

    draw()
    assert sum(found) >= len(found) / 4


DIGESTS = """
import hashlib, json, sys
from tests.unit.manifests.test_purity import as_bytes, read
print(json.dumps([hashlib.sha256(as_bytes(item)).hexdigest() for item in read(sys.stdin.read())]))
"""


def written(items: list[Input]) -> str:
    """Inputs as text."""
    return json.dumps(
        [
            (source.model_dump(mode="json", by_alias=True), text, blueprint is not None)
            for source, text, blueprint in items
        ]
    )


def read(text: str) -> list[Input]:
    """Inputs from their text."""
    return [
        (ModelDeployment.model_validate(source, strict=False), rules, BLUEPRINT if known else None)
        for source, rules, known in json.loads(text)
    ]


def test_every_process_gives_the_same_bytes():
    items: list[Input] = []

    @settings(max_examples=40, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(item=inputs())
    def draw(item):
        items.append(item)

    draw()
    here = [hashlib.sha256(as_bytes(item)).hexdigest() for item in items]

    for seed, order in (("0", items), ("4242", items[::-1])):
        env = {"PATH": os.environ["PATH"], "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", DIGESTS]
        done = subprocess.run(
            command, input=written(order), cwd=ROOT, env=env, capture_output=True, text=True, check=True
        )
        there = json.loads(done.stdout)
        assert (there if order is items else there[::-1]) == here


@pytest.mark.parametrize("backend", sorted(LIBRARY.tables))
def test_every_backend_is_drawn(backend):
    assert {mode for name, _, mode in SERVED if name == backend} == {"agg", "disagg"}
