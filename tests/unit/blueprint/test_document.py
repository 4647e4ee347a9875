"""Blueprints as JSON, and numbers that somebody declares."""

import json
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tandem.api.problems import Refused
from tandem.blueprint.config import from_config
from tandem.blueprint.document import canonical, fingerprint, from_dict, to_dict
from tandem.blueprint.packed import pack, unpack
from tandem.data import data_dir
from tests.unit.blueprint.configs import DEEPSEEK_V3, GOLDEN, LLAMA4, NEMOTRON_NANO, gemma3

# As operators have left them in the status of resources.
FIRST_PACKED = json.loads(Path(__file__).with_name("packed_v1.json").read_text())
FIRST_READ = {
    "Llama-3.1-8B": GOLDEN[0].config(),
    "Gemma-3-4B": gemma3(2560, 34, 8, 4, 10240),
    "DeepSeek-V3": DEEPSEEK_V3,
    "Llama-4-Scout": LLAMA4,
}

EVERY_KIND = (*(model.config() for model in GOLDEN), DEEPSEEK_V3, NEMOTRON_NANO, gemma3(2560, 34, 8, 4, 10240))
DECLARED = {
    "schema_version": 1,
    "architecture": "my-model",
    "total_params": 1000,
    "weight_bytes": 2000,
    "kv_bytes_per_token": 64,
    "max_seq_len": 4096,
}


@pytest.mark.parametrize("document", EVERY_KIND, ids=lambda document: document["model_type"])
def test_s3_03_json_and_back(document):
    blueprint = from_config(document)

    written = json.loads(json.dumps(to_dict(blueprint)))

    assert written["schema_version"] == 1
    assert from_dict(written) == blueprint
    assert canonical(from_dict(written)) == canonical(blueprint)
    assert fingerprint(from_dict(written)) == fingerprint(blueprint)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    model=st.sampled_from(EVERY_KIND),
    layers=st.integers(1, 64),
    vocabulary=st.integers(1, 300_000),
    dtype=st.sampled_from(["bfloat16", "float32"]) | st.none(),
    more=st.dictionaries(st.text(max_size=8), st.text(max_size=8), max_size=3),
)
def test_s3_03_any_blueprint_survives_json(model, layers, vocabulary, dtype, more):
    changed = {"num_hidden_layers": layers, "vocab_size": vocabulary, "dtype": dtype}
    blueprint = from_config({**model, **changed, **{f"x-{name}": value for name, value in more.items()}})

    again = from_dict(json.loads(canonical(blueprint)))

    assert again == blueprint
    assert hash(again) == hash(blueprint)
    assert canonical(again) == canonical(blueprint)


def test_s3_03_the_canonical_text_differs_where_a_fact_does():
    prints = {fingerprint(from_config({**DEEPSEEK_V3, "vocab_size": size})) for size in (1000, 1001)}

    assert len(prints) == 2


def test_numbers_can_be_declared_for_an_architecture_that_is_not_known():
    blueprint = from_dict(DECLARED)

    assert (blueprint.total_params, blueprint.weight_bytes) == (1000, 2000)
    assert blueprint.weights_from == "declared"
    assert blueprint.structure is None
    assert len(blueprint.digest) == 64


@pytest.mark.parametrize(
    ("changed", "path"),
    [
        ({"schema_version": 2}, "schema_version"),
        ({"schema_version": None}, "schema_version"),
        ({"total_params": "many"}, "total_params"),
        ({"total_params": -1}, "total_params"),
        ({"total_params": 1e308}, "total_params"),
        ({"weight_bytes": 10**30}, "weight_bytes"),
        ({"weight_bytes": None}, "weight_bytes"),
        ({"dims": {"hidden_size": 4}}, "dims.layers"),
    ],
    ids=str,
)
def test_a_declaration_that_cannot_be_is_located(changed, path):
    with pytest.raises(Refused) as refused:
        from_dict({**DECLARED, **changed}, place="mine.json: ")

    assert [problem.path for problem in refused.value.problems] == [f"mine.json: {path}"]


def test_an_unknown_field_is_refused_not_dropped():
    with pytest.raises(Refused) as refused:
        from_dict({**DECLARED, "total_parms": 5})

    assert refused.value.problems[0].path == "total_parms"


@pytest.mark.parametrize(
    ("changed", "path"),
    [
        ({"total_params": 5}, "total_params"),
        ({"dtype": "bf17"}, "dtype"),
        ({"vocab": 0}, "structure.vocab"),
        ({"runs": []}, "structure.runs"),
        ({"hidden": -1}, "structure.hidden"),
    ],
    ids=str,
)
def test_a_written_blueprint_that_somebody_changed_is_refused(changed, path):
    written = json.loads(json.dumps(to_dict(from_config(GOLDEN[0].config()))))
    for key, value in changed.items():
        (written if key in written else written["structure"])[key] = value

    with pytest.raises(Refused) as refused:
        from_dict(written)

    assert refused.value.problems[0].path == path


def test_s3_15_facts_that_were_written_before_a_field_was_there_are_read():
    blueprint = from_config(GOLDEN[0].config())
    written = to_dict(blueprint)
    del written["uncounted"]

    assert from_dict(json.loads(json.dumps(written))) == blueprint


@pytest.mark.parametrize("model", FIRST_PACKED)
def test_s3_15_facts_that_the_first_version_packed_are_read_without_loss(model):
    blueprint = unpack(FIRST_PACKED[model], "status.facts")

    assert unpack(pack(blueprint), "status.facts") == blueprint
    read = from_config(FIRST_READ[model])
    assert (blueprint.digest, blueprint.dims) == (read.digest, read.dims)
    assert blueprint.weight_bytes > 10**9


@pytest.mark.parametrize("path", sorted(data_dir("crds").iterdir()), ids=lambda path: path.name)
def test_s3_15_a_resource_has_one_version_so_nothing_is_converted(path):
    resource = yaml.safe_load(path.read_text(encoding="utf-8"))["spec"]

    # A second version needs a conversion, and a test that it loses nothing.
    found = [(version["name"], version["served"], version["storage"]) for version in resource["versions"]]
    assert (found, resource.get("conversion")) == ([("v1alpha1", True, True)], None)
