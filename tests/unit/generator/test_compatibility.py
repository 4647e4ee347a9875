"""The first API still works: overrides, runtime, worker sizes, from_runtime and from_file."""

import copy
import re
import sys

import pytest
import yaml

from tandem.api.problems import Refused
from tandem.generator import api
from tandem.generator.api import (
    DynamoConfig,
    GeneratorContext,
    ModeConfig,
    RuntimeView,
    generate_backend_artifacts,
    generate_backend_config,
    generate_config_from_input_dict,
)
from tandem.generator.compat_api import runtime_of

# The call as it was documented, word for word.
SNIPPET = """
# Original API calls continue to work unchanged
from aiconfigurator.generator.api import generate_backend_config

artifacts = generate_backend_config.from_runtime(
    cfg={"model_name": "llama-2-7b", "serving_mode": "agg"},
    backend="vllm",
    version="0.5.0",
    overrides=DynamoConfig({"tp": 2, "bs": 32})
)
"""
CFG = {
    "model_name": "Qwen/Qwen3-32B",
    "system_name": "h200_sxm",
    "total_gpus": 16,
    "serving_mode": "disagg",
    "nextn": 0,
    "is_moe": False,
    "isl": 4000,
    "osl": 1000,
    "disagg_prefill_worker_config": {"kvcache_quant_mode": "float16", "bs": 1, "workers": 2, "tp": 1, "pp": 1},
    "disagg_decode_worker_config": {"kvcache_quant_mode": "float16", "bs": 128, "workers": 3, "tp": 2, "pp": 1},
    "exp_config": {"ttft": 875.0},
}


def changed(path, value):
    cfg = copy.deepcopy(CFG)
    *outer, last = path.split(".")
    node = cfg
    for name in outer:
        node = node[name]
    if value is None:
        del node[last]
    else:
        node[last] = value
    return cfg


def test_s0_20_the_documented_call_returns_artifacts(monkeypatch):
    monkeypatch.setitem(sys.modules, "aiconfigurator", api)
    monkeypatch.setitem(sys.modules, "aiconfigurator.generator", api)
    monkeypatch.setitem(sys.modules, "aiconfigurator.generator.api", api)
    names = {"DynamoConfig": DynamoConfig}

    exec(SNIPPET, names)

    bundle = names["artifacts"]
    assert set(bundle.by_mode) == {"agg"}
    assert "--tensor-parallel-size 2" in bundle.by_mode["agg"]["cli_args_agg"]
    assert "--max-num-seqs 32" in bundle.by_mode["agg"]["cli_args_agg"]
    assert bundle.warnings == ("version: 0.5.0 of vllm is not known; 0.33.0 is used",)


def test_s0_20_both_apis_give_the_same_worker_arguments(library):
    old = generate_backend_config.from_runtime(CFG, "vllm", "0.33.0", library=library).by_mode["disagg"]
    params = generate_config_from_input_dict(
        {
            "ServiceConfig": {"model_path": "Qwen/Qwen3-32B", "served_model_name": "Qwen/Qwen3-32B"},
            "Workers": {
                "prefill": {"tensor_parallel_size": 1, "max_batch_size": 1, "max_seq_len": 6000},
                "decode": {"tensor_parallel_size": 2, "max_batch_size": 128, "max_seq_len": 6000},
            },
            "WorkerConfig": {"prefill_workers": 2, "decode_workers": 3},
            "SlaConfig": {"isl": 4000, "osl": 1000},
        },
        backend="vllm",
        library=library,
    )

    assert old == generate_backend_artifacts(params, "vllm", backend_version="0.33.0", library=library)


def test_s0_20_the_documented_configuration_gives_the_same_through_the_new_api(library):
    cfg = {"model_name": "llama-2-7b", "serving_mode": "agg"}
    old = generate_backend_config.from_runtime(
        cfg=cfg, backend="vllm", version="0.33.0", overrides=DynamoConfig({"tp": 2, "bs": 32}), library=library
    ).by_mode["agg"]
    params = generate_config_from_input_dict(
        {
            "ServiceConfig": {"model_path": "llama-2-7b", "served_model_name": "llama-2-7b"},
            "Workers": {"agg": {"tensor_parallel_size": 2, "max_batch_size": 32}},
        },
        backend="vllm",
        library=library,
    )

    new = generate_backend_artifacts(params, "vllm", backend_version="0.33.0", library=library)

    assert old["cli_args_agg"] == new["cli_args_agg"]


def test_s0_20_files_are_saved_by_mode(tmp_path, library):
    bundle = generate_backend_config.from_runtime(CFG, "vllm", save_dir=tmp_path, library=library)

    found = {path.name for path in (tmp_path / "disagg").iterdir()}
    assert found == {name for name in bundle.by_mode["disagg"] if not name.startswith("cli_args")}


def test_s0_20_replicas_are_what_the_gpus_hold(library):
    context = generate_backend_config.from_runtime(CFG, "vllm", library=library).context

    assert (context.total_gpus, context.num_gpus_per_replica, context.num_replicas) == (16, 8, 2)


@pytest.mark.parametrize(
    ("model", "nextn", "warned"), [("deepseek-ai/DeepSeek-V3", 0, False), ("Qwen/Qwen3-32B", 1, True)]
)
def test_s0_20_only_deepseek_predicts_more_than_one_token(model, nextn, warned, library):
    cfg = {**CFG, "model_name": model, "nextn": nextn}

    bundle = generate_backend_config.from_runtime(cfg, "vllm", library=library)

    assert ("not of the DeepSeek family" in " ".join(bundle.warnings)) is warned
    assert bundle.context.runtime.nextn == 0


def test_s0_20_multi_token_prediction_is_refused_where_the_backend_cannot(library):
    cfg = {**CFG, "model_name": "deepseek-ai/DeepSeek-V3", "nextn": 1}

    with pytest.raises(Refused, match=r"speculative_decoding_type: vllm 0\.33\.0 cannot honour it"):
        generate_backend_config.from_runtime(cfg, "vllm", library=library)


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        ("serving_mode", "both", "serving_mode: this mode does not exist"),
        ("disagg_prefill_worker_config.bs", None, "disagg_prefill_worker_config.bs: Missing required input"),
        ("disagg_decode_worker_config.tp", None, "disagg_decode_worker_config.tp: Missing required input"),
        ("disagg_decode_worker_config.tp", -3, "disagg_decode_worker_config.tp: .*at least 1"),
        ("disagg_decode_worker_config.tp", "4", "disagg_decode_worker_config.tp: .*a whole number is needed"),
        ("disagg_decode_worker_config.tpp", 1, "disagg_decode_worker_config.tpp: there is no such key .*mean tp"),
        ("disagg_decode_worker_config", [], "disagg_decode_worker_config: must be a mapping"),
        ("total_gpus", 4, "total_gpus: one replica needs 8 GPUs"),
        ("model_name", None, "model_name: "),
        ("isl", 0, "isl: "),
        ("serving", "agg", "serving: there is no such key. Did you mean serving_mode"),
    ],
)
def test_s0_20_a_bad_configuration_is_refused(path, value, problem, library):
    with pytest.raises(Refused, match=problem):
        generate_backend_config.from_runtime(changed(path, value), "vllm", library=library)


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ({"tpp": 2}, r"overrides.tpp: there is nothing of this name"),
        ({"agg_tp": 2}, "overrides.agg_tp: mode disagg has no role agg"),
        ({"tp": "two"}, "disagg_prefill_worker_config.tp: "),
        ({"k8s_namespace": "None"}, "K8sConfig.k8s_namespace: a namespace has"),
    ],
)
def test_a_bad_override_is_refused(override, problem, library):
    with pytest.raises(Refused, match=problem):
        generate_backend_config.from_runtime(CFG, "vllm", overrides=DynamoConfig(override), library=library)


def test_overrides_reach_roles_groups_and_numbers_of_workers(library):
    overrides = DynamoConfig({"decode_tp": 4, "prefill_workers": 1, "k8s_namespace": "team", "kv_cache_dtype": "fp8"})

    found = generate_backend_config.from_runtime(CFG, "vllm", overrides=overrides, library=library).by_mode["disagg"]

    deployment = yaml.safe_load(found["model_deployment.yaml"])
    assert deployment["metadata"]["namespace"] == "team"
    assert deployment["spec"]["roles"]["prefill"]["replicas"] == 1
    assert "--tensor-parallel-size 4" in found["cli_args_decode"]
    assert all("--kv-cache-dtype fp8" in found[f"cli_args_{role}"] for role in ("prefill", "decode"))


def test_s0_21_a_file_gives_the_same_as_its_dictionary(tmp_path, library):
    path = tmp_path / "cfg.yaml"
    path.write_text(yaml.safe_dump(CFG))

    assert generate_backend_config.from_file(path, "vllm", library=library) == generate_backend_config.from_runtime(
        CFG, "vllm", library=library
    )


def test_s0_21_the_same_name_is_a_function_too(library):
    assert generate_backend_config({"tensor_parallel_size": 4}, "vllm", library=library)["tensor_parallel_size"]


def test_s0_16_a_prefixed_key_lands_in_its_role_alone():
    common, roles = DynamoConfig({"tp": 2, "bs": 32, "decode_tp": 4, "prefill_bs": 1}).split_by_worker_type()

    assert common == {"tp": 2, "bs": 32}
    assert roles == {"decode": {"tp": 4}, "prefill": {"bs": 1}, "agg": {}}


def test_s0_17_the_runtime_is_built_from_the_configuration():
    cfg = changed("disagg_prefill_worker_config.kvcache_quant_mode", "fp8")

    assert runtime_of(cfg) == (RuntimeView(4000, 1000, False, kv_cache_mode="fp8"), ())


def test_s0_17_fp8_sets_the_format_of_the_kv_cache_in_every_role(library):
    cfg = changed("disagg_prefill_worker_config.kvcache_quant_mode", "fp8")

    found = generate_backend_config.from_runtime(cfg, "vllm", library=library).by_mode["disagg"]

    assert [bool(re.search("--kv-cache-dtype fp8", found[f"cli_args_{role}"])) for role in ("prefill", "decode")] == [
        True,
        True,
    ]


def test_s0_18_disaggregated_workers_need_a_number(library):
    with pytest.raises(Refused, match=r"Missing required input: disagg_decode_worker_config\.workers"):
        generate_backend_config.from_runtime(changed("disagg_decode_worker_config.workers", None), "vllm")


def test_s0_18_one_aggregated_worker_is_the_default(library):
    cfg = {"model_name": "org/model", "serving_mode": "agg", "agg_worker_config": {"bs": 8, "tp": 1, "pp": 1}}

    context = generate_backend_config.from_runtime(cfg, "vllm", library=library).context

    assert context.modes == {"agg": ModeConfig(workers=1, bs=8, tp=1, pp=1)}


def test_s0_19_a_context_survives_the_way_through_plain_values(library):
    context = generate_backend_config.from_runtime(CFG, "vllm", library=library).context

    assert GeneratorContext.from_dict(context.to_dict()) == context
    assert set(context.modes) == {"disagg_prefill", "disagg_decode"}


@pytest.mark.parametrize("path", ["gpus", "runtime.mode"])
def test_s0_19_an_unknown_field_is_rejected(path, library):
    data = generate_backend_config.from_runtime(CFG, "vllm", library=library).context.to_dict()
    node = data["runtime"] if "." in path else data
    node[path.rpartition(".")[2]] = 1

    with pytest.raises(Refused, match="there is no such field") as caught:
        GeneratorContext.from_dict(data)

    assert caught.value.problems[0].path == path
