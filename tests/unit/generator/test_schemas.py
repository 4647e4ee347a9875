"""The schema of inputs: keys, defaults, and where a value comes from."""

import copy
from dataclasses import asdict

import pytest

from tandem.api.problems import Refused
from tandem.generator.calls import generate_backend_artifacts, generate_config_from_input_dict
from tandem.generator.inputs import merge
from tandem.generator.schemas import load_schema, parse_schema

# The table of defaults; images and the two ports of vLLM are in tests of their own.
TABLE = {
    "ServiceConfig.head_node_ip": "0.0.0.0",
    "ServiceConfig.port": 8000,
    "ServiceConfig.include_frontend": True,
    "DynConfig.mode": "disagg",
    "DynConfig.enable_router": False,
    "K8sConfig.name_prefix": "dynamo",
    "K8sConfig.k8s_namespace": "dynamo",
    "K8sConfig.k8s_image_pull_secret": "",
    "K8sConfig.k8s_model_cache": "",
    "WorkerConfig.prefill_workers": 1,
    "WorkerConfig.decode_workers": 1,
    "WorkerConfig.agg_workers": 1,
    "ModelConfig.is_moe": False,
    "ModelConfig.nextn": 0,
}
MANDATORY = {"ServiceConfig.model_path": "org/model", "ServiceConfig.served_model_name": "model"}


def resolve(given, backend="vllm", image="image:1", schema=None):
    return (schema or load_schema()).resolve(given, backend=backend, facts={"backend_image": image})


def test_s0_07_the_mandatory_keys_alone_give_exactly_the_table():
    values = {key: found.value for key, found in resolve(MANDATORY).items()}

    assert values == {
        **MANDATORY,
        **TABLE,
        "ServiceConfig.model_name": "model",
        "K8sConfig.k8s_image": "image:1",
        "ServiceConfig.dyn_vllm_kv_event_port": 20081,
        "ServiceConfig.vllm_nixl_side_channel_port": 20097,
    }


def test_s0_07_the_engine_file_of_trtllm_is_inline():
    assert resolve(MANDATORY, backend="trtllm")["K8sConfig.k8s_engine_mode"].value == "inline"


def test_s0_07_the_image_is_that_of_the_backend(minimal, library):
    images = {
        backend: generate_config_from_input_dict(minimal, backend=backend, library=library)["k8s"]["k8s_image"]
        for backend in library.tables
    }

    assert images == {backend: library.table(backend, None).image for backend in library.tables}


@pytest.mark.parametrize("key", sorted(MANDATORY))
def test_s0_03_a_missing_required_key_is_told_by_its_dotted_path(key):
    given = {other: value for other, value in MANDATORY.items() if other != key}

    with pytest.raises(Refused, match=f"Missing required input: {key}") as caught:
        resolve(given)

    assert [problem.path for problem in caught.value.problems] == [key]


def test_s0_08_a_default_that_refers_to_a_key_is_that_keys_value():
    assert resolve(MANDATORY)["ServiceConfig.model_name"].value == "model"


def test_s0_08_a_default_that_is_a_text_stays_that_text():
    assert resolve(MANDATORY)["K8sConfig.name_prefix"].value == "dynamo"


def test_s0_08_the_first_key_with_a_value_counts():
    schema = parse_schema(
        {"inputs": [{"key": "A.a"}, {"key": "A.b"}, {"key": "A.c", "default": {"first_of": ["A.a", "A.b"]}}]}, "test"
    )

    assert resolve({"A.b": "second"}, schema=schema)["A.c"].value == "second"
    assert "A.c" not in resolve({}, schema=schema)


@pytest.mark.parametrize("backend", ["torch", "sglang", "trtllm", None])
def test_s0_09_a_key_of_one_backend_does_not_exist_for_others(backend):
    assert not [key for key in resolve(MANDATORY, backend=backend) if "vllm" in key]


def test_s0_09_a_key_of_one_backend_is_refused_for_others():
    with pytest.raises(Refused, match="only backend vllm knows it"):
        resolve({**MANDATORY, "ServiceConfig.dyn_vllm_kv_event_port": 1}, backend="sglang")


@pytest.mark.parametrize(
    ("given", "backend", "expected"),
    [
        ({"A.a": "mine"}, "vllm", {"value": "mine", "source": "user"}),
        ({}, "vllm", {"value": "theirs", "source": "backend default"}),
        ({}, "torch", {"value": "ours", "source": "default"}),
        ({"A.a": None}, "torch", {"value": "ours", "source": "default"}),
    ],
)
def test_s0_13_user_wins_over_backend_default_over_default(given, backend, expected):
    schema = parse_schema(
        {"inputs": [{"key": "A.a", "default": "ours", "backend_defaults": {"vllm": "theirs"}}]}, "test"
    )

    assert asdict(resolve(given, backend=backend, schema=schema)["A.a"]) == expected


AGG = {"DynConfig": {"mode": "agg"}}
MOE = {"Workers": {role: {"data_parallel_size": 2, "tensor_parallel_size": 4} for role in ("prefill", "decode")}}
DEEPSEEK = {"ServiceConfig": {"model_name": "deepseek-v3"}}
ROUTED = {"DynConfig": {"enable_router": True}}
# What each key can be changed to; on which backend, beside which other keys.
CHANGES = {
    "ServiceConfig.model_path": ("other/model", "vllm", {}),
    "ServiceConfig.served_model_name": ("other", "vllm", {}),
    "ServiceConfig.model_name": ("deepseek-v3", "trtllm", {"ModelConfig": {"nextn": 1}}),
    "ServiceConfig.head_node_ip": ("127.0.0.1", "vllm", {}),
    "ServiceConfig.port": (9000, "vllm", {}),
    "ServiceConfig.include_frontend": (False, "vllm", {}),
    "ServiceConfig.dyn_vllm_kv_event_port": (30000, "vllm", ROUTED),
    "ServiceConfig.vllm_nixl_side_channel_port": (30000, "vllm", {}),
    "DynConfig.mode": ("agg", "vllm", {}),
    "DynConfig.enable_router": (True, "vllm", {}),
    "K8sConfig.name_prefix": ("other", "vllm", {}),
    "K8sConfig.mode": ("agg", "vllm", {}),
    "K8sConfig.k8s_namespace": ("other", "vllm", {}),
    "K8sConfig.k8s_image": ("other:1", "vllm", {}),
    "K8sConfig.k8s_image_pull_secret": ("other", "vllm", {}),
    "K8sConfig.k8s_engine_mode": ("configmap", "trtllm", {}),
    "K8sConfig.k8s_model_cache": ("other", "vllm", {}),
    "K8sConfig.k8s_hf_token_secret": ("other", "vllm", {}),
    "WorkerConfig.prefill_workers": (2, "vllm", {}),
    "WorkerConfig.decode_workers": (2, "vllm", {}),
    "WorkerConfig.agg_workers": (2, "vllm", AGG),
    "SlaConfig.isl": (1000, "vllm", {}),
    "SlaConfig.osl": (1000, "vllm", {}),
    "SlaConfig.ttft": (1000.0, "vllm", {}),
    "SlaConfig.tpot": (50.5, "vllm", {}),
    "ModelConfig.is_moe": (True, "sglang", MOE),
    "ModelConfig.nextn": (1, "trtllm", DEEPSEEK),
    "NodeConfig.num_gpus_per_node": (1, "vllm", {}),
    "rule": ("benchmark", "vllm", {}),
}


def generated(backend, library, minimal, *layers):
    """The artifacts, or the refusal: both are an effect."""
    raw = copy.deepcopy(minimal)
    for layer in layers:
        raw = merge(raw, layer)
    try:
        params = generate_config_from_input_dict(raw, backend=backend, library=library)
        return generate_backend_artifacts(params, backend, library=library)
    except Refused as refused:
        return str(refused)


@pytest.mark.parametrize("key", list(load_schema().entries))
def test_s0_06_no_key_is_dead(key, minimal, library):
    value, backend, others = CHANGES[key]
    group, _, name = key.rpartition(".")
    change = {group: {name: value}} if group else {name: value}

    before = generated(backend, library, minimal, others)
    after = generated(backend, library, minimal, others, change)

    assert before != after
    assert isinstance(after, dict), after


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (None, "a schema has one key, inputs"),
        ({"inputs": [{}]}, "an entry has the fields"),
        ({"inputs": [{"key": "A.a", "defualt": 1}]}, "an entry has the fields"),
        ({"inputs": [{"key": "A.a", "type": "text"}]}, "this type is not known"),
        ({"inputs": [{"key": "A.a"}, {"key": "A.a"}]}, "this key is there twice"),
        ({"inputs": [{"key": "A.a", "type": "integer", "default": "1"}]}, "must be a whole number"),
        ({"inputs": [{"key": "A.a", "default": {"first_of": ["A.b"]}}]}, "a default refers to keys above it"),
        ({"inputs": [{"key": "A.a", "default": {"expr": "1"}}]}, "a default is a value or"),
    ],
)
def test_a_schema_that_cannot_be_used_is_refused(document, reason):
    with pytest.raises(Refused, match=reason):
        parse_schema(document, "schema.yaml")
