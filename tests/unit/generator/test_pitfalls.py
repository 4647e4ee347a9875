"""Faults of other generators that cannot happen here."""

import json
import re

import pytest

from tandem.api.problems import Refused
from tandem.generator.calls import backend_configs, generate_backend_artifacts, generate_config_from_input_dict
from tandem.rendering.library import load_library
from tests.unit.yaml_text import read, read_all

BACKENDS = sorted(load_library().tables)
MODES = ("agg", "disagg")


def made(raw, backend, library, **options):
    params = generate_config_from_input_dict(raw, backend=backend, library=library)
    return generate_backend_artifacts(params, backend, library=library, **options)


def refusal(raw, backend, library, **options):
    with pytest.raises(Refused) as refused:
        made(raw, backend, library, **options)
    return refused.value.problems


def leaves(value):
    """Every plain value of a document."""
    if isinstance(value, dict):
        return [leaf for item in value.values() for leaf in leaves(item)]
    return [leaf for item in value for leaf in leaves(item)] if isinstance(value, list) else [value]


def test_rendering_again_and_again_doubles_nothing(minimal, library):
    """Another generator: three renderings of one input gave a limit of 1200, 2400 and 4800."""
    raw = {**minimal, "Workers": {"agg": {"max_batch_size": 1200}}, "SlaConfig": {"isl": 4000}}
    params = generate_config_from_input_dict(raw, backend="vllm", library=library)

    found = [backend_configs(params, "vllm", library=library)["agg"]["max_batch_size"] for _ in range(3)]

    assert found == [{"max-num-seqs": 1200}] * 3


@pytest.mark.parametrize(
    ("backend", "prefill", "decode"),
    [("trtllm", "fp8", "auto"), ("vllm", "fp8", "bfloat16"), ("sglang", "fp8", "auto")],
)
def test_a_format_of_the_cache_that_differs_between_roles_is_refused(backend, prefill, decode, minimal, library):
    """Another generator: both became auto, and nobody was told."""
    roles = {"prefill": {"kv_cache_dtype": prefill}, "decode": {"kv_cache_dtype": decode}}

    (problem,) = refusal({**minimal, "Workers": roles}, backend, library)

    assert problem.path == "Workers.decode.kv_cache_dtype"
    assert "must have the same kv_cache_dtype" in problem.reason


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_without_an_sla_nothing_is_left_empty(backend, mode, minimal, library):
    """Another generator: `max_num_tokens: ` without a value, `namespace: None`, `HF_TOKEN:-"None"`."""
    found = made({**minimal, "DynConfig": {"mode": mode}}, backend, library)

    for name, text in found.items():
        assert not re.search(
            r"(?<![\w-])(None|nan|undefined|Undefined)(?![\w-])", text.replace("clusterIP: 'None'", "")
        )
        if name.endswith((".yaml", ".yml")) and not name.endswith(("deploy.yaml", "deployment.yaml")):
            values = leaves(read(text))
            assert "" not in values
            # The bundled server's own word for no limit.
            assert None not in values or name.endswith("config.yml")


@pytest.mark.parametrize("batch", [None, 1, 64, 512, 513, 1200])
def test_recorded_graphs_are_each_size_once_up_to_the_batch(batch, minimal, library):
    """Another generator: duplicates, and graphs up to 608 for a batch that a later rule had made 1200."""
    parameters = {} if batch is None else {"max_batch_size": batch}
    raw = {**minimal, "Workers": {"agg": parameters}}
    params = generate_config_from_input_dict(raw, backend="sglang", library=library)

    found = backend_configs(params, "sglang", library=library)["agg"]

    largest = found["max_batch_size"]["max-running-requests"]
    sizes = found.get("cuda_graph_batch_sizes", {}).get("cuda-graph-bs-decode")
    assert sizes is None if largest > 512 else sizes == list(range(1, largest + 1))


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"Workers": {"agg": {"tensr_parallel_size": 4}}}, "Workers.agg.tensr_parallel_size"),
        ({"Bogus": {"x": 1}}, "Bogus"),
        ({"ServiceConfig": {"model_path": "a", "served_model_name": "b", "prot": 1}}, "ServiceConfig.prot"),
        ({"Workers": {"agg": {"tensor_parallel_size": -3}}}, "Workers.agg.tensor_parallel_size"),
        ({"Workers": {"prefill": {}}}, "Workers.decode"),
    ],
)
def test_nothing_unknown_or_impossible_is_passed_over(change, path, minimal, library):
    """Another generator: unknown keys dropped, `gpu: '-3'`, a disaggregated deployment without decode workers."""
    assert [problem.path for problem in refusal({**minimal, **change}, "vllm", library)] == [path]


def test_a_version_that_nobody_knows_is_refused(minimal, library):
    assert refusal(minimal, "vllm", library, backend_version="9.9.9-nope")[0].path == "version"


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("model_path", 'x"; touch  "'),
        ("model_path", "x\ny: z"),
        ("model_path", "$(id)"),
        ("served_model_name", "a\nb: c"),
        ("served_model_name", '"; id; "'),
        ("served_model_name", "{{ 7 * 7 }}"),
    ],
)
def test_text_that_would_be_code_is_refused(key, text, minimal, library):
    """Another generator: the path of a model was run by the script, a name added lines to a manifest."""
    service = {**minimal["ServiceConfig"], key: text}

    assert refusal({"ServiceConfig": service}, "vllm", library)[0].path == f"ServiceConfig.{key}"


def test_a_template_that_fails_leaves_no_artifact_out(minimal, library, tmp_path):
    """Another generator: a warning, and the file was missing."""
    (tmp_path / "extra_engine_args.1.2.1.yaml.j2").write_text("a: {{ nope }}\n")

    (problem,) = refusal(minimal, "trtllm", library, templates_dir=tmp_path)

    assert problem.path.endswith("extra_engine_args.1.2.1.yaml.j2:1")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_every_name_is_one_that_the_cluster_takes(backend, mode, minimal, library):
    """Another generator: `None-agg`."""
    text = made({**minimal, "DynConfig": {"mode": mode}}, backend, library)["k8s_deploy.yaml"]

    names = [item["metadata"]["name"] for item in read_all(text)]
    assert names
    assert [name for name in names if not re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", name)] == []


def test_a_condition_of_one_role_changes_no_other(minimal, library, tmp_path):
    """Another generator: a condition saw all roles merged, so one that held for decode rewrote prefill."""
    mine = library.with_rules(
        backend="vllm",
        rule_set="production",
        texts={"vllm.rule": "when max_batch_size > 100:\n    max_num_tokens = 9000\n"},
        label="mine",
        path="rules",
    )
    raw = {**minimal, "Workers": {"prefill": {"max_batch_size": 1}, "decode": {"max_batch_size": 128}}}
    params = generate_config_from_input_dict(raw, backend="vllm", library=mine)

    found = backend_configs(params, "vllm", library=mine)

    assert "max_num_tokens" not in found["prefill"]
    assert found["decode"]["max_num_tokens"] == {"max-num-batched-tokens": 9000}


def test_an_input_that_would_take_all_memory_is_refused(tmp_path, library):
    """A few lines whose aliases stand for billions of values, and brackets without end."""
    from tandem.generator.calls import load_input

    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    for text in ("\n".join(lines), "[" * 100_000, "a: &a [*a]"):
        path = tmp_path / "input.yaml"
        path.write_text(text)
        with pytest.raises(Refused) as refused:
            load_input(path)
        assert re.match(rf"{re.escape(str(path))}:\d+:\d+$", refused.value.problems[0].path)


def test_the_parameters_are_plain_json(minimal, library):
    params = generate_config_from_input_dict(minimal, backend="vllm", library=library)

    assert json.loads(json.dumps(params)) == params
