"""Every public entry of the generator with bad inputs, and the exact error of each."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from tandem.api.problems import Refused
from tandem.cli.app import root
from tandem.generator.api import (
    DynamoConfig,
    GeneratorContext,
    collect_generator_params,
    generate_backend_artifacts,
    generate_backend_config,
    generate_config_from_dicts,
    generate_config_from_input_dict,
    generate_config_from_yaml,
    prepare_generator_params,
)

SERVICE = {"model_path": "org/model", "served_model_name": "model"}
INPUT = {"ServiceConfig": SERVICE}
HERE = Path(__file__).parent
EXPECTED = json.loads((HERE / "bad_input.json").read_text(encoding="utf-8"))


def params(**groups):
    return generate_config_from_input_dict({**INPUT, **groups}, backend="vllm")


def file(text, name="input.yaml"):
    """A file in the current directory; its name."""
    Path(name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return name


def folder(name, text):
    """A directory in the current one, with one file."""
    Path("templates").mkdir()
    Path("templates", name).write_text(text)
    return "templates"


# By entry: a bad input of each kind, by what is wrong with it.
CALLS = {
    "collect_generator_params": {
        "no mapping": lambda: collect_generator_params([]),
        "nothing": lambda: collect_generator_params({}),
        "one key is missing": lambda: collect_generator_params({"model_path": "a/b"}),
        "an unknown key": lambda: collect_generator_params({**SERVICE, "prot": 1}),
        "a role is no mapping": lambda: collect_generator_params(SERVICE, agg_params=[1]),
        "only one of two roles": lambda: collect_generator_params(SERVICE, prefill_params={"max_batch_size": 1}),
        "roles of both modes": lambda: collect_generator_params(
            SERVICE, agg_params={"max_batch_size": 1}, decode_params={"max_batch_size": 1}
        ),
        "a number of workers that is none": lambda: collect_generator_params(SERVICE, decode_workers="2"),
        "a negative number of workers": lambda: collect_generator_params(SERVICE, decode_workers=-1),
        "an unknown backend": lambda: collect_generator_params(SERVICE, backend="nope"),
        "an unknown mode": lambda: collect_generator_params(SERVICE, dyn_config={"mode": "both"}),
        "no sla": lambda: collect_generator_params(SERVICE, sla={"isl": 0}),
    },
    "generate_config_from_input_dict": {
        "no mapping": lambda: generate_config_from_input_dict("x"),
        "an unknown group": lambda: generate_config_from_input_dict({**INPUT, "Bogus": {}}),
        "a key that is no text": lambda: generate_config_from_input_dict({**INPUT, 3: {}}),
        "a group that is no mapping": lambda: generate_config_from_input_dict({"ServiceConfig": 3}),
        "a value of the wrong type": lambda: generate_config_from_input_dict(
            {"ServiceConfig": {**SERVICE, "port": "8000"}}
        ),
        "true where a number is needed": lambda: generate_config_from_input_dict(
            {"ServiceConfig": {**SERVICE, "port": True}}
        ),
        "an unknown role": lambda: params(Workers={"prefil": {}}),
        "an unknown parameter": lambda: params(Workers={"agg": {"tensr_parallel_size": 1}}),
        "a parameter out of bounds": lambda: params(Workers={"agg": {"tensor_parallel_size": 0}}),
        "a parameter of another backend": lambda: generate_config_from_input_dict(
            {"ServiceConfig": {**SERVICE, "dyn_vllm_kv_event_port": 1}}, backend="torch"
        ),
        "a name for no cluster": lambda: params(K8sConfig={"name_prefix": "Team"}),
        "a secret's name that is none": lambda: params(K8sConfig={"k8s_image_pull_secret": "A"}),
        "a path that is code": lambda: generate_config_from_input_dict(
            {"ServiceConfig": {**SERVICE, "model_path": "$(id)"}}
        ),
        "a schema that does not exist": lambda: generate_config_from_input_dict(INPUT, "none.yaml"),
        "a schema that is none": lambda: generate_config_from_input_dict(INPUT, file("inputs: {}")),
    },
    "generate_config_from_yaml": {
        "no file": lambda: generate_config_from_yaml("none.yaml"),
        "a directory": lambda: generate_config_from_yaml("."),
        "no YAML": lambda: generate_config_from_yaml(file("a: [")),
        "no UTF-8": lambda: generate_config_from_yaml(file(b"a: 1\nb: \xff")),
        "a list": lambda: generate_config_from_yaml(file("- 1")),
        "nothing": lambda: generate_config_from_yaml(file("")),
        "two documents": lambda: generate_config_from_yaml(file("a: 1\n---\nb: 2")),
        "a key twice": lambda: generate_config_from_yaml(file("rule: production\nrule: benchmark")),
        "an alias of itself": lambda: generate_config_from_yaml(file("a: &a [*a]")),
        "a tag": lambda: generate_config_from_yaml(file("a: !!python/object/apply:os.system [id]")),
    },
    "prepare_generator_params": {
        "nothing": lambda: prepare_generator_params(None),
        "no file": lambda: prepare_generator_params("none.yaml"),
        "an override that does not exist": lambda: prepare_generator_params(None, {**INPUT, "X": 1}),
    },
    "generate_backend_config": {
        "an unknown backend": lambda: generate_backend_config({}, "nope"),
        "an unknown version": lambda: generate_backend_config({}, "vllm", backend_version="9.9.9-nope"),
        "a short name": lambda: generate_backend_config({"tp": 1}, "vllm"),
        "an unknown parameter": lambda: generate_backend_config({"zebra": 1}, "vllm"),
        "a value that it cannot have": lambda: generate_backend_config({"kv_cache_dtype": "fp9"}, "vllm"),
        "a parameter that the backend cannot honour": lambda: generate_backend_config(
            {"max_prefill_tokens": 1}, "vllm"
        ),
        "a parameter of the other mode": lambda: generate_backend_config({"kv_transfer_backend": "nixl"}, "vllm"),
        "several roles": lambda: generate_backend_config(params(), "vllm"),
        "a role that is not there": lambda: generate_backend_config(params(), "vllm", role="agg"),
        "no parameters": lambda: generate_backend_config([], "vllm"),
    },
    "generate_backend_config.from_runtime": {
        "no mapping": lambda: generate_backend_config.from_runtime([], "vllm"),
        "no mode": lambda: generate_backend_config.from_runtime({"model_name": "a/b"}, "vllm"),
        "no sizes": lambda: generate_backend_config.from_runtime({"model_name": "a/b", "serving_mode": "agg"}, "vllm"),
        "an unknown key": lambda: generate_backend_config.from_runtime({"model": "a/b"}, "vllm"),
        "an unknown backend": lambda: generate_backend_config.from_runtime(
            {"model_name": "a/b", "serving_mode": "agg", "agg_worker_config": {"bs": 1, "tp": 1, "pp": 1}}, "nope"
        ),
        "an unknown override": lambda: generate_backend_config.from_runtime(
            {"model_name": "a/b", "serving_mode": "agg"}, "vllm", overrides=DynamoConfig({"tp": 1, "bs": 1, "nope": 1})
        ),
    },
    "generate_backend_config.from_file": {
        "no file": lambda: generate_backend_config.from_file("none.yaml", "vllm"),
        "a list": lambda: generate_backend_config.from_file(file("- 1"), "vllm"),
    },
    "GeneratorContext.from_dict": {
        "no mapping": lambda: GeneratorContext.from_dict([]),
        "nothing": lambda: GeneratorContext.from_dict({}),
    },
    "generate_backend_artifacts": {
        "no mapping": lambda: generate_backend_artifacts([], "vllm"),
        "an unknown group": lambda: generate_backend_artifacts({**params(), "extra": {}}, "vllm"),
        "a group that is no mapping": lambda: generate_backend_artifacts({**params(), "k8s": 1}, "vllm"),
        "a derived key that was changed": lambda: generate_backend_artifacts(
            params() | {"k8s": {**params()["k8s"], "name": "x"}}, "vllm"
        ),
        "an unknown backend": lambda: generate_backend_artifacts(params(), "nope"),
        "an unknown version": lambda: generate_backend_artifacts(params(), "vllm", backend_version="0"),
        "no directory of templates": lambda: generate_backend_artifacts(params(), "vllm", templates_dir="none"),
        "a template that replaces none": lambda: generate_backend_artifacts(
            params(), "vllm", templates_dir=folder("x.j2", "- a\n")
        ),
        "a template with a mistake": lambda: generate_backend_artifacts(
            params(), "vllm", templates_dir=folder("cli_args.0.33.0.j2", "- a\n- --x={{ model.path }}\n")
        ),
        "no mapping file": lambda: generate_backend_artifacts(params(), "vllm", mapping_path="none.yaml"),
        "a mapping file that is none": lambda: generate_backend_artifacts(
            params(), "vllm", mapping_path=file("- 1", "mapping.yaml")
        ),
        "a mapping file with a script in quotes": lambda: generate_backend_artifacts(
            params(), "vllm", mapping_path=file('vllm:\n  run.sh.j2: |\n    echo "{{ model }}"\n', "mapping.yaml")
        ),
        "a place that cannot be written to": lambda: generate_backend_artifacts(
            params(), "vllm", output_dir=file("", "taken")
        ),
        "a port that clashes": lambda: generate_backend_artifacts(
            params(
                DynConfig={"mode": "disagg"},
                Workers={role: {"disaggregation_bootstrap_port": 8000} for role in ("prefill", "decode")},
            ),
            "vllm",
        ),
        "roles that do not agree": lambda: generate_backend_artifacts(
            params(Workers={"prefill": {"kv_cache_dtype": "fp8"}, "decode": {}}), "vllm"
        ),
        "sizes that do not fit each other": lambda: generate_backend_artifacts(
            params(Workers={"agg": {"max_num_tokens": 1, "max_batch_size": 2}}), "vllm"
        ),
    },
    "generate_config_from_dicts": {
        "no configuration": lambda: generate_config_from_dicts(3),
        "an unknown key": lambda: generate_config_from_dicts({**SERVICE, "modle": 1}),
        "a class": lambda: generate_config_from_dicts(SERVICE, dict),
    },
}
# Arguments of `tandem generator`; FILE is a good input.
COMMANDS = {
    "no input": ["render-config", "--backend", "vllm"],
    "no backend": ["render-config", "--config", "FILE"],
    "an unknown backend": ["render-config", "--backend", "nope", "--config", "FILE"],
    "an unknown version": ["render-config", "--backend", "vllm", "--version", "0", "--config", "FILE"],
    "an unknown role": ["render-config", "--backend", "vllm", "--config", "FILE", "--role", "encode"],
    "no file": ["render-config", "--backend", "vllm", "--config", "none.yaml"],
    "no mapping file": ["render-config", "--backend", "vllm", "--config", "FILE", "--mapping", "none.yaml"],
    "no =": ["render-config", "--backend", "vllm", "--config", "FILE", "--set", "rule"],
    "a value of the wrong type": [
        "render-config",
        "--backend",
        "vllm",
        "--config",
        "FILE",
        "--set",
        "ServiceConfig.port=x",
    ],
    "an unknown rule set": ["render-config", "--backend", "vllm", "--config", "FILE", "--set", "rule=../../etc"],
    "no place": ["render-artifacts", "--backend", "vllm", "--config", "FILE"],
    "an unknown command": ["render"],
    "an unknown section of help": ["--generator-help", "none"],
}


def told(call):
    with pytest.raises(Refused) as refused:
        call()
    return [str(problem) for problem in refused.value.problems]


@pytest.mark.parametrize(("entry", "kind"), [(entry, kind) for entry, calls in CALLS.items() for kind in calls])
def test_every_entry_tells_a_bad_input_exactly(entry, kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    assert told(CALLS[entry][kind]) == EXPECTED[entry][kind]


@pytest.mark.parametrize("kind", COMMANDS)
def test_every_command_tells_a_bad_input_exactly(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file(json.dumps(INPUT))
    words = ["input.yaml" if word == "FILE" else word for word in COMMANDS[kind]]

    done = CliRunner().invoke(root, ["generator", *words], prog_name="tandem")

    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.splitlines() == EXPECTED["tandem generator"][kind]


def test_nothing_else_is_expected():
    assert {entry: set(kinds) for entry, kinds in EXPECTED.items()} == {
        **{entry: set(kinds) for entry, kinds in CALLS.items()},
        "tandem generator": set(COMMANDS),
    }
