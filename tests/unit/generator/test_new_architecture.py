"""The layers of the generator, the object API and the dictionary API."""

import ast
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace

import pytest

from tandem.api.problems import Refused
from tandem.data import data_dir
from tandem.generator import api
from tandem.generator.api import K8sConfig, ModelConfig, RuntimeEnvConfig, generate_config_from_dicts

OBJECTS = """
from api import generate_config_from_dicts
from config import ModelConfig, K8sConfig, RuntimeEnvConfig

model_config = ModelConfig(
    model_path="meta-llama/Llama-2-7b-hf",
    served_model_name="llama-2-7b"
)

k8s_config = K8sConfig(
    name_prefix="trtllm",
    mode="disagg"
)

params = generate_config_from_dicts(
    model_config=model_config,
    k8s_config=k8s_config,
    # ... other parameters
)
"""
DICTIONARIES = """
params = generate_config_from_dicts(
    model_config={
        "model_path": "meta-llama/Llama-2-7b-hf",
        "served_model_name": "llama-2-7b"
    },
    k8s_config={
        "name_prefix": "trtllm",
        "mode": "disagg"
    },
    # ... other parameters
)
"""


@pytest.fixture
def documented(monkeypatch):
    """The modules by the names that the documented snippets have for them."""
    monkeypatch.setitem(sys.modules, "api", api)
    configs = SimpleNamespace(ModelConfig=ModelConfig, K8sConfig=K8sConfig, RuntimeEnvConfig=RuntimeEnvConfig)
    monkeypatch.setitem(sys.modules, "config", configs)


@pytest.mark.usefixtures("documented")
def test_s0_22_the_documented_snippet_of_the_object_api_runs():
    names = {}

    exec(OBJECTS, names)

    assert names["params"]["k8s"]["mode"] == "disagg"
    assert names["params"]["k8s"]["name"] == "trtllm-disagg"
    assert names["params"]["service"]["served_model_name"] == "llama-2-7b"


@pytest.mark.usefixtures("documented")
def test_s0_23_plain_dictionaries_give_what_objects_give():
    names = {}
    exec(OBJECTS, names)
    objects = names["params"]

    exec(DICTIONARIES, names)

    assert names["params"] == objects


def test_s0_22_every_configuration_object_reaches_its_group(library):
    params = generate_config_from_dicts(
        ModelConfig("org/model", "model", is_moe=True),
        K8sConfig(k8s_namespace="team"),
        RuntimeEnvConfig(port=9000, enable_router=True, num_gpus_per_node=4),
        workers={"agg": {"tensor_parallel_size": 2}},
        worker_config={"agg_workers": 3},
        sla_config={"isl": 100},
        backend="vllm",
        library=library,
    )

    assert params["model"]["is_moe"] is True
    assert params["k8s"]["k8s_namespace"] == "team"
    assert (params["service"]["port"], params["k8s"]["router_mode"], params["node"]) == (
        9000,
        "kv",
        {"num_gpus_per_node": 4},
    )
    assert (params["params"], params["workers"]["agg_workers"], params["sla"]) == (
        {"agg": {"tensor_parallel_size": 2}},
        3,
        {"isl": 100},
    )


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"model_config": {"model_path": "a"}}, "Missing required input: ServiceConfig.served_model_name"),
        ({"model_config": []}, "model_config: must be a configuration object"),
        (
            {"model_config": {"model_path": "a", "served_model_name": "b", "modle": 1}},
            "ServiceConfig.modle: there is no such input. Did you mean ServiceConfig.model_path",
        ),
    ],
)
def test_bad_configuration_objects_are_refused(arguments, problem, library):
    with pytest.raises(Refused, match=problem):
        generate_config_from_dicts(**arguments, library=library)


def test_s0_01_directories_of_data_hold_no_python():
    folders = (files("tandem.generator") / "config", data_dir("templates"), data_dir("rules"))

    names = [entry.name for folder in folders for entry in _walk(folder)]

    assert names
    assert [name for name in names if name.endswith((".py", ".pyc"))] == []


def _walk(folder):
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _walk(entry)
        else:
            yield entry


@pytest.mark.parametrize("module", ["tandem.rendering.pipeline", "tandem.generator.api"])
def test_s0_01_rendering_needs_no_command_line_and_no_cluster(module):
    code = f"import sys, {module}; print(sorted(sys.modules))"

    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    assert {"argparse", "click", "kubernetes", "kopf", "torch"} & set(ast.literal_eval(found)) == set()


@pytest.mark.parametrize(
    "suite", ["test_compatibility", "test_new_architecture", "test_main", "test_artifacts", "test_rules"]
)
def test_s0_40_the_promised_suites_are_found_by_one_pytest(suite):
    found = list(Path(__file__).parents[1].glob(f"*/{suite}.py"))

    assert found
    assert "def test_" in found[0].read_text()
