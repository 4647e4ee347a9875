"""`tandem generator`: options, JSON on standard output, exit codes."""

import json
import stat

import pytest
import yaml
from click.testing import CliRunner

from tandem.cli.app import root
from tandem.generator.schemas import load_schema


@pytest.fixture
def config(tmp_path, disagg):
    path = tmp_path / "input.yaml"
    path.write_text(yaml.safe_dump(disagg))
    return str(path)


def run(*arguments):
    return CliRunner().invoke(root, ["generator", *arguments])


def render_config(*arguments):
    return run("render-config", "--backend", "vllm", *arguments)


def flags(result):
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_s0_24_all_roles_of_a_disaggregated_file_are_exactly_prefill_and_decode(config):
    assert list(flags(render_config("--config", config, "--role", "all"))) == ["prefill", "decode"]


def test_s0_24_one_role_alone(config):
    assert list(flags(render_config("--config", config, "--role", "decode"))) == ["decode"]


def test_s0_24_a_role_that_the_input_lacks_warns_and_falls_back(config):
    result = render_config("--config", config, "--role", "agg")

    assert list(flags(result)) == ["prefill", "decode"]
    assert "warning: --role agg: the input has no such role; showing prefill, decode" in result.stderr


def test_s0_24_a_mapping_file_of_the_user_replaces_the_shipped_one(tmp_path, config):
    shipped = yaml.safe_load((_templates() / "vllm" / "mapping.0.33.0.yaml").read_text())
    shipped["parameters"]["tensor_parallel_size"] = "--tp"
    mapping = tmp_path / "mapping.yaml"
    mapping.write_text(yaml.safe_dump(shipped))

    found = flags(render_config("--config", config, "--mapping", str(mapping)))

    assert found["prefill"]["tensor_parallel_size"] == {"tp": 2}


def _templates():
    from tandem.data import data_dir

    return data_dir("templates")


def test_s0_25_the_json_has_the_files_on_disk(tmp_path, config):
    out = tmp_path / "out"

    result = run("render-artifacts", "--backend", "vllm", "--config", config, "--output", str(out))

    assert flags(result) == {path.name: path.read_text() for path in out.iterdir()}


def test_s0_30_scripts_can_be_run_by_everyone(tmp_path, config):
    out = tmp_path / "out"

    run("render-artifacts", "--backend", "vllm", "--config", config, "--output", str(out))

    modes = {path.suffix: path.stat().st_mode for path in out.iterdir()}
    everyone = stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH
    assert modes[".sh"] & everyone == everyone
    assert modes[".yaml"] & everyone == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "No generator inputs provided via --config or --set."),
        (("--config", "/nowhere/input.yaml"), "/nowhere/input.yaml: Config file not found."),
        (("--mapping", "/nowhere/mapping.yaml"), "/nowhere/mapping.yaml: Mapping file not found."),
        (("--version", "9.9.9-nope"), "error: --version: this version of vllm is not known"),
        (("--backend", "nope"), "error: --backend: this backend is not served yet"),
        (("--set", "ServiceConfig.model_path"), "there is no = in it"),
        (("--set", "=x"), "the key is not a dotted name"),
        (("--set", "a..b=x"), "the key is not a dotted name"),
        (("--set", "Bogus.key=x"), "Bogus: there is no such group"),
        (("--set", "Workers.prefil.tensor_parallel_size=4"), "there is no such role. Did you mean Workers.prefill?"),
        (("--set", "Workers.agg.tensr_parallel_size=4"), "Did you mean Workers.agg.tensor_parallel_size?"),
        (("--set", "Workers.agg.tensor_parallel_size=1_000"), "must be a whole number"),
        (("--set", "ServiceConfig.include_frontend=yes"), "must be true or false"),
        (("--set", "Workers.agg.cuda_graph_batch_sizes=4"), "must be a list"),
        (("--set", "Workers.agg.cuda_graph_batch_sizes=[1,"), "malformed YAML"),
        (("--set", "SlaConfig.ttft=fast"), "must be a number"),
        (("--set", "ServiceConfig.served_model_name=q"), "Missing required input: ServiceConfig.model_path"),
    ],
)
def test_s0_26_a_mistake_exits_2_and_prints_nothing_on_standard_output(arguments, message):
    result = render_config(*arguments)

    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr


@pytest.mark.parametrize(
    ("item", "path", "reason"),
    [
        ("Workers.prefill.tensor_parallel_size=-3", "Workers.prefill.tensor_parallel_size", "at least 1 (got -3)"),
        ("Workers.prefill.kv_cache_dtype=fp9", "Workers.prefill.kv_cache_dtype", "Did you mean fp8?"),
        ("Workers.prefill.enable_attention_dp=true", "Workers.prefill.enable_attention_dp", "no switch for it"),
        ("WorkerConfig.decode_workers=-1", "WorkerConfig.decode_workers", "at least 0"),
        ("K8sConfig.k8s_namespace=None", "K8sConfig.k8s_namespace", "a namespace has a-z"),
        ("K8sConfig.name_prefix=-x", "K8sConfig.name_prefix", "a letter first"),
        ("K8sConfig.k8s_image_pull_secret=UPPER", "K8sConfig.k8s_image_pull_secret", "Did you mean upper?"),
        ("K8sConfig.k8s_image=a b", "K8sConfig.k8s_image", "an image is"),
        ("K8sConfig.k8s_model_cache=A", "K8sConfig.k8s_model_cache", "no name of a claim"),
        ("K8sConfig.k8s_hf_token_secret=A", "K8sConfig.k8s_hf_token_secret", "a name here is of"),
        ("ServiceConfig.model_path=/data/x", "ServiceConfig.model_path", "pods find a directory only on a claim"),
        ('ServiceConfig.model_path=x"; touch "y', "ServiceConfig.model_path", "a repository is NAME or OWNER/NAME"),
        ("ServiceConfig.served_model_name=a\nb: c", "ServiceConfig.served_model_name", "a model name is of"),
        ("ServiceConfig.port=70000", "ServiceConfig.port", "1 to 65535 (got 70000)"),
        ("ServiceConfig.port=0", "ServiceConfig.port", "1 to 65535 (got 0)"),
        ("SlaConfig.isl=0", "SlaConfig.isl", "at least 1"),
        ("SlaConfig.ttft=-1", "SlaConfig.ttft", "above 0"),
        ("ModelConfig.nextn=1", "ModelConfig.nextn", "DeepSeek family"),
        ("ModelConfig.nextn=-1", "ModelConfig.nextn", "not negative"),
        ("Workers.decode.data_parallel_size=16", "Workers.decode.data_parallel_size", "copies stay on one node"),
        ("NodeConfig.num_gpus_per_node=0", "NodeConfig.num_gpus_per_node", "1 to 1024"),
        ("rule=../../etc", "rule", "only production or benchmark"),
    ],
)
def test_a_value_that_cannot_be_is_told_by_the_name_that_the_input_has_for_it(item, path, reason, tmp_path, config):
    result = run("render-artifacts", "--backend", "vllm", "--config", config, "--output", str(tmp_path), "--set", item)

    assert (result.exit_code, result.stdout) == (2, "")
    assert any(line.startswith(f"error: {path}") and reason in line for line in result.stderr.splitlines()), (
        result.stderr
    )


def test_s0_27_a_value_of_the_command_line_beats_the_file(config):
    found = flags(render_config("--config", config, "--set", "Workers.prefill.tensor_parallel_size=4"))

    assert found["prefill"]["tensor_parallel_size"] == {"tensor-parallel-size": 4}
    assert found["decode"]["tensor_parallel_size"] == {"tensor-parallel-size": 2}


def test_s0_27_the_last_value_wins(config):
    items = ("--set", "Workers.prefill.tensor_parallel_size=4", "--set", "Workers.prefill.tensor_parallel_size=8")

    assert flags(render_config("--config", config, *items))["prefill"]["tensor_parallel_size"] == {
        "tensor-parallel-size": 8
    }


def test_s0_27_values_alone_are_an_input():
    items = ("--set", "ServiceConfig.model_path=org/m=odel", "--set", "ServiceConfig.served_model_name=1.20")

    result = render_config(*items)

    assert "ServiceConfig.model_path" in result.stderr  # `=` after the first one belongs to the value
    assert flags(render_config("--set", "ServiceConfig.model_path=org/model", *items[2:]))


@pytest.mark.parametrize("section", [(), ("deploy",), ("backend",)])
def test_s0_39_the_help_lists_keys_and_flags(section):
    text = run("--generator-help", *section).stdout

    assert ("ServiceConfig.vllm_nixl_side_channel_port" in text) is (section != ("backend",))
    assert ("--tensor-parallel-size" in text) is (section != ("deploy",))


def test_s0_39_the_help_comes_before_missing_options():
    assert run("render-config", "--generator-help").exit_code == 0


def test_s0_06_the_schema_prints_every_key_with_its_default_per_backend():
    found = json.loads(CliRunner().invoke(root, ["schema", "-o", "json"]).stdout)

    entries = load_schema().entries
    assert [row["key"] for row in found["inputs"]] == list(entries)
    for row in found["inputs"]:
        entry = entries[row["key"]]
        has_default = entry.default is not None
        knows = {backend for backend in found["versions"] if entry.known_to(backend)}
        assert set(row["defaults"]) == {name for name in knows if has_default or name in entry.backend_defaults}
    image = next(row for row in found["inputs"] if row["key"] == "K8sConfig.k8s_image")
    assert {"torch", "vllm"} <= set(image["defaults"])
    assert image["defaults"]["vllm"] == "vllm/vllm-openai:v0.33.0"
    batch = next(row for row in found["parameters"] if row["name"] == "maxBatchSize")
    assert batch["bounds"] == "[1, 1048576]"
    assert batch["backends"]["vllm"]["flags"] == ["--max-num-seqs"]
    assert batch["backends"]["vllm"]["defaults"] == {"agg": "128", "prefill": "1", "decode": "128"}
    assert len(found["parameters"]) == 32


@pytest.mark.parametrize("output", ["table", "json", "yaml"])
def test_the_schema_names_every_parameter(output):
    text = CliRunner().invoke(root, ["schema", "-o", output]).stdout

    assert all(name in text for name in ("tensorParallelSize", "trustRemoteCode", "ServiceConfig.model_path"))


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--version", "1"), 2, "--version needs --backend"),
        (("--backend", "nope"), 1, "this backend is not served yet"),
        (("--backend", "vllm", "--version", "0.1"), 1, "this version of vllm is not known"),
    ],
)
def test_a_schema_of_nothing_known_is_refused(arguments, code, message):
    from tandem.cli.app import run as run_command

    runner = CliRunner()
    with runner.isolation() as streams:
        assert run_command(["schema", *arguments]) == code
        assert message in streams[1].getvalue().decode()
