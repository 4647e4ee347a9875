"""The functions of the API: inputs to parameters to flags."""

import copy

import pytest
import yaml

from tandem.api.problems import Refused
from tandem.generator.calls import (
    backend_config,
    backend_configs,
    collect_generator_params,
    generate_backend_artifacts,
    generate_config_from_input_dict,
    generate_config_from_yaml,
    prepare_generator_params,
)

SERVICE = {"model_path": "Qwen/Qwen3-32B", "served_model_name": "qwen"}


def test_s0_02_collecting_twice_gives_the_same_and_leaves_the_input_alone(library):
    parts = {
        "service": dict(SERVICE),
        "k8s": {"name_prefix": "team"},
        "prefill_params": {"tensor_parallel_size": 2, "cuda_graph_batch_sizes": [1, 2]},
        "decode_params": {"tensor_parallel_size": 4},
        "prefill_workers": 2,
        "sla": {"isl": 4000},
        "dyn_config": {"mode": "disagg"},
        "backend": "vllm",
    }
    before = copy.deepcopy(parts)

    first = collect_generator_params(**parts, library=library)
    first["params"]["prefill"]["cuda_graph_batch_sizes"].append(3)
    second = collect_generator_params(**parts, library=library)

    assert parts == before
    assert second == collect_generator_params(**parts, library=library)
    assert set(second) >= {"service", "k8s", "workers", "params", "sla"}
    assert second["params"] == {"prefill": before["prefill_params"], "decode": before["decode_params"]}
    assert second["workers"]["prefill_workers"] == 2


def test_s0_03_a_file_gives_the_same_as_its_dictionary(tmp_path, disagg, library):
    path = tmp_path / "input.yaml"
    path.write_text(yaml.safe_dump(disagg))

    assert generate_config_from_yaml(path, backend="vllm", library=library) == generate_config_from_input_dict(
        disagg, backend="vllm", library=library
    )


def test_s0_03_worker_counts_are_another_name_of_worker_config(disagg, library):
    renamed = {"WorkerCounts" if key == "WorkerConfig" else key: value for key, value in disagg.items()}

    assert generate_config_from_input_dict(renamed, library=library) == generate_config_from_input_dict(
        disagg, library=library
    )


def test_s0_04_a_parameter_becomes_its_flag_and_no_other_parallelism_appears():
    found = backend_config({"tensor_parallel_size": 4}, "vllm")

    assert found["tensor_parallel_size"] == {"tensor-parallel-size": 4}
    assert [name for name in found if "parallel" in name] == ["tensor_parallel_size"]


def test_s0_04_none_is_pruned(library):
    found = backend_config({"tensor_parallel_size": 4, "max_seq_len": None}, "vllm", library=library)

    assert "max_seq_len" not in found


@pytest.mark.parametrize(
    ("parameter", "value", "flags"),
    [
        ("disable_prefix_cache", True, {"no-enable-prefix-caching": True}),
        ("cuda_graph_batch_sizes", [1, 2, 4], {"cudagraph-capture-sizes": [1, 2, 4]}),
        ("kv_cache_dtype", "fp8", {"kv-cache-dtype": "fp8"}),
        ("kv_cache_free_gpu_memory_fraction", 0.5, {"gpu-memory-utilization": 0.5}),
    ],
)
def test_s0_04_values_keep_their_type(parameter, value, flags, library):
    assert backend_config({parameter: value}, "vllm", library=library)[parameter] == flags


def test_s0_04_every_role_of_the_parameters_has_its_own_flags(disagg, library):
    params = generate_config_from_input_dict(disagg, backend="vllm", library=library)

    assert set(backend_configs(params, "vllm", library=library)) == {"prefill", "decode"}


def test_s0_05_written_files_are_the_returned_texts(tmp_path, disagg, library):
    params = generate_config_from_input_dict(disagg, backend="vllm", library=library)

    artifacts = generate_backend_artifacts(params, "vllm", output_dir=tmp_path / "out", library=library)

    written = {path.name: path.read_bytes().decode() for path in (tmp_path / "out").iterdir()}
    assert written == {name: text for name, text in artifacts.items() if not name.startswith("cli_args_")}


def test_s0_12_a_known_version_uses_its_own_files(disagg, library):
    params = generate_config_from_input_dict(disagg, backend="vllm", library=library)

    older = generate_backend_artifacts(params, "vllm", backend_version="0.32.0", library=library)

    assert "image: 'vllm/vllm-openai:v0.32.0'" in older["k8s_deploy.yaml"]


def test_s0_12_an_unknown_version_is_refused_with_the_known_ones(disagg, library):
    params = generate_config_from_input_dict(disagg, backend="vllm", library=library)

    with pytest.raises(Refused, match=r"version: this version of vllm is not known .*9\.9\.9-nope.*0\.33\.0"):
        generate_backend_artifacts(params, "vllm", backend_version="9.9.9-nope", library=library)


def test_the_same_parameters_any_number_of_times_give_the_same_bytes(disagg, library):
    params = generate_config_from_input_dict(disagg, backend="vllm", library=library)
    before = copy.deepcopy(params)

    results = [generate_backend_artifacts(params, "vllm", library=library) for _ in range(3)]

    assert params == before
    assert results[0] == results[1] == results[2]


def test_overrides_win_over_the_file(tmp_path, disagg, library):
    path = tmp_path / "input.yaml"
    path.write_text(yaml.safe_dump(disagg))

    params = prepare_generator_params(path, {"Workers": {"prefill": {"tensor_parallel_size": 4}}}, library=library)

    assert params["params"] == {"prefill": {"tensor_parallel_size": 4}, "decode": {"tensor_parallel_size": 2}}


@pytest.mark.parametrize(
    ("workers", "dyn", "mode"),
    [
        ({"prefill": {}, "decode": {}}, {}, "disagg"),
        ({"agg": {}}, {}, "agg"),
        ({}, {}, "disagg"),
        ({}, {"mode": "agg"}, "agg"),
    ],
)
def test_s0_29_the_mode_follows_from_the_roles(workers, dyn, mode, minimal, library):
    params = generate_config_from_input_dict({**minimal, "Workers": workers, "DynConfig": dyn}, library=library)

    assert params["k8s"]["mode"] == mode


def test_s0_29_the_mode_may_stand_in_the_kubernetes_group(minimal, library):
    params = generate_config_from_input_dict({**minimal, "K8sConfig": {"mode": "agg"}}, library=library)

    assert params["k8s"]["mode"] == "agg"


@pytest.mark.parametrize(
    ("extra", "path", "reason"),
    [
        ({"DynConfig": {"mode": "agg"}, "Workers": {"prefill": {}}}, "Workers.prefill", "mode agg has no role prefill"),
        ({"K8sConfig": {"mode": "agg"}, "Workers": {"decode": {}}}, "Workers.decode", "mode agg has no role decode"),
        ({"DynConfig": {"mode": "disagg"}, "Workers": {"agg": {}}}, "Workers.agg", "mode disagg has no role agg"),
        ({"Workers": {"agg": {}, "prefill": {}, "decode": {}}}, "Workers.agg", "mode disagg has no role agg"),
        ({"Workers": {"prefill": {}}}, "Workers.decode", "only one is given"),
        ({"DynConfig": {"mode": "agg"}, "K8sConfig": {"mode": "disagg"}}, "K8sConfig.mode", "says otherwise"),
        ({"DynConfig": {"mode": "both"}}, "DynConfig.mode", "this mode does not exist"),
        (
            {"DynConfig": {"mode": "agg"}, "WorkerConfig": {"decode_workers": 3}},
            "WorkerConfig.decode_workers",
            "mode agg has no role decode",
        ),
    ],
)
def test_s0_29_a_contradiction_is_refused(extra, path, reason, minimal, library):
    with pytest.raises(Refused, match=reason) as caught:
        generate_config_from_input_dict({**minimal, **extra}, library=library)

    assert caught.value.problems[0].path == path
