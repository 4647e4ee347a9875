"""blueprint and fit: a model's card, the verdict on a deployment, and facts that reach what is rendered."""

import io
import json
import os
from pathlib import Path

import pytest
import yaml

from tandem.api.resources import BlueprintDesign
from tandem.blueprint.design import from_design
from tandem.cli.app import run
from tandem.controller.blueprint_status import facts_of
from tests.unit.blueprint.configs import DEEPSEEK_V3, GOLDEN

EXAMPLES = Path(__file__).parents[3] / "docs" / "examples"
LLAMA = GOLDEN[0].config()


@pytest.fixture
def model(tmp_path):
    """Writes a model's directory."""

    def written(config=LLAMA, **files):
        directory = tmp_path / "model"
        directory.mkdir(exist_ok=True)
        (directory / "config.json").write_text(json.dumps(config))
        for name, content in files.items():
            (directory / name).write_bytes(content)
        return str(directory)

    return written


def deployment(tmp_path, backend="vllm", parameters=None, limits=None):
    spec = {"model": {"pvc": {"claimName": "m"}}, "backend": backend, "parameters": parameters or {}}
    spec["roles"] = {"agg": {"resources": {"limits": limits or {}}}}
    document = {"apiVersion": "tandem.dev/v1alpha1", "kind": "ModelDeployment", "metadata": {"name": "one"}}
    path = tmp_path / "deployment.yaml"
    path.write_text(yaml.safe_dump({**document, "spec": spec}))
    return str(path)


def test_the_card_of_a_directory(model, capsys):
    assert run(["blueprint", "show", model()]) == 0
    shown = capsys.readouterr().out

    assert "8,030,261,248" in shown
    assert "16,060,522,496 bytes (14.96 GiB) as bfloat16" in shown
    assert "131,072 bytes per token" in shown
    assert "1 × " in shown


def test_a_card_says_which_number_type_is_assumed(model, capsys):
    unnamed = {key: value for key, value in LLAMA.items() if key not in ("dtype", "torch_dtype")}
    assert run(["blueprint", "show", model(unnamed)]) == 0
    shown = capsys.readouterr().out

    assert "the config names no number type: bfloat16 is assumed below" in shown
    assert "KV cache        1.00 GiB for one sequence of 8,192 tokens" in shown


def test_a_sequence_that_the_model_does_not_take_is_refused(model, capsys):
    assert run(["blueprint", "show", model(), "--length", "200000"]) == 1
    assert "the model takes sequences of at most 131,072 tokens" in capsys.readouterr().err


def test_the_card_as_json_is_a_blueprint_with_its_sizes(model, capsys, tmp_path):
    assert run(["blueprint", "show", model(DEEPSEEK_V3), "-o", "json"]) == 0
    document = json.loads(capsys.readouterr().out)

    assert document["total_params"] == 671_026_419_200
    assert document["sizing"]["bytes_per_format"]["bfloat16"] > document["weight_bytes"]
    assert document["sizing"]["gpus"]["H200-141GB"] == 8
    assert document["sizing"]["gpus"]["T4-16GB"] is None

    again = tmp_path / "again.json"
    again.write_text(json.dumps(document))
    assert run(["blueprint", "show", str(again), "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == document


def test_numbers_that_somebody_declares_are_shown(tmp_path, capsys):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"schema_version": 1, "architecture": "mine", "weight_bytes": 2**31}))

    assert run(["blueprint", "show", str(path)]) == 0
    assert "2,147,483,648 bytes (2.00 GiB) as they are, declared" in capsys.readouterr().out


def test_the_bytes_of_a_file_without_an_index_are_counted(model, capsys):
    size = 2 * 8_030_261_248
    header = b"{}" + b" " * 6
    directory = model()
    with Path(directory, "model.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + size)  # a hole: no bytes on the disk

    assert run(["blueprint", "show", directory]) == 0
    assert f"{size:,} bytes (14.96 GiB) as bfloat16, from the files" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"model.safetensors": b"x" * 20}, "this is no safetensors file"),
        ({"model.safetensors.index.json": b"{}"}, "metadata.total_size: a whole number above 0 is needed here"),
        ({"model.safetensors.index.json": b"{"}, "malformed JSON"),
        (
            {"model.safetensors": (16).to_bytes(8, "little") + b" " * 40},
            "model.safetensors: the model that config.json describes has 8030261248 numbers",
        ),
        ({"config.json": b'{"model_type": "llama"'}, "config.json:1:"),
        ({"config.json": b"\xff\xfe"}, "this is no text in UTF-8"),
        ({"config.json": b'{"model_type": "llma"}'}, "Did you mean llama?"),
    ],
    ids=str,
)
def test_wrong_files_are_located(model, capsys, files, said):
    directory = model(**files)

    assert run(["blueprint", "show", directory]) == 1
    error = capsys.readouterr().err
    assert said in error
    assert directory in error


HOSTILE = {
    "cut off": json.dumps(LLAMA)[:-20],
    "no text": "\udcff\udcfe",
    "deep": '{"model_type": ' + "[" * 100_000,
    "none": "",
    "a list": "[]",
    "many layers": json.dumps({**LLAMA, "num_hidden_layers": 10**308}),
    "no number": json.dumps({**LLAMA, "hidden_size": float("nan")}),
    "a text": json.dumps({**LLAMA, "vocab_size": "x" * 100_000}),
    "missing": '{"model_type": "llama"}',
    "twice": '{"model_type": "llama", "model_type": "gemma"}',
    "large": json.dumps({**LLAMA, "hidden_size": 2**24, "intermediate_size": 2**24}),
    "too long": " " * 5_000_000,
    "below zero": '{"schema_version": 1, "weight_bytes": -1}',
}


@pytest.mark.parametrize("output", [[], ["-o", "json"]], ids=["text", "json"])
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_model_is_refused_at_every_entry(name, output, tmp_path, capsys, monkeypatch):
    data = HOSTILE[name].encode(errors="surrogateescape")
    path = tmp_path / "config.json"
    path.write_bytes(data)
    deployed = ["-f", deployment(tmp_path), "--gpu", "H100-80GB"]
    entries = {
        "show": ["blueprint", "show", str(path)],
        "directory": ["blueprint", "show", str(tmp_path)],
        "stdin": ["blueprint", "show", "-"],
        "fit": ["fit", *deployed, "--blueprint", str(path)],
        "explain": ["explain", *deployed[:2], "--blueprint", str(path)],
    }
    for entry, arguments in entries.items():
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))

        assert run([*arguments, *output]) == 1, entry
        said = capsys.readouterr()
        assert said.out == ""
        assert len(said.err) < 4000
        assert "standard input" in said.err if entry == "stdin" else str(path) in said.err


@pytest.mark.parametrize("name", ["model.safetensors", "model-q4_0.gguf", "pytorch_model.bin"])
def test_a_file_of_weights_is_told_from_a_configuration(name, tmp_path, capsys):
    (tmp_path / name).write_bytes(b"GGUF\xff")

    assert run(["blueprint", "show", str(tmp_path / name)]) == 1
    assert "Name the directory of the model that it belongs to" in capsys.readouterr().err


def test_files_that_are_none_are_told_at_once(tmp_path, capsys):
    for name in ("pipe", "loop", "directory", "dangling"):
        (tmp_path / name).mkdir()
    os.mkfifo(tmp_path / "pipe" / "config.json")
    (tmp_path / "loop" / "config.json").symlink_to(tmp_path / "loop" / "config.json")
    (tmp_path / "directory" / "config.json").mkdir()
    (tmp_path / "dangling" / "config.json").symlink_to(tmp_path / "absent")

    for name in ("pipe", "loop", "directory", "dangling"):
        assert run(["blueprint", "show", str(tmp_path / name)]) == 1
        assert f"{name}/config.json: this is no file, or a link to none" in capsys.readouterr().err
    assert run(["blueprint", "show", str(tmp_path / "pipe" / "config.json")]) == 1
    assert "a pipe may stay silent" in capsys.readouterr().err
    assert run(["blueprint", "show", str(tmp_path / "loop" / "config.json")]) == 1
    assert "it cannot be read" in capsys.readouterr().err


def test_weights_that_a_link_leads_nowhere_to_are_told(model, capsys, tmp_path):
    index = {"metadata": {"total_size": 16_060_522_496}, "weight_map": {"a": "a.safetensors", "b": "b.safetensors"}}
    path = model(**{"model.safetensors.index.json": json.dumps(index).encode(), "b.safetensors": b"x"})
    (tmp_path / "model" / "a.safetensors").symlink_to(tmp_path / "absent")

    assert run(["blueprint", "show", path]) == 1
    assert "a.safetensors" in capsys.readouterr().err


def test_a_model_on_standard_input(capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(json.dumps(LLAMA).encode())))

    assert run(["blueprint", "show", "-"]) == 0
    assert "8,030,261,248" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["blueprint", "show", "/nowhere"], "there is no such file or directory"),
        (["blueprint", "show", ""], "there is no such file or directory"),
        (["blueprint", "show", "a" * 5000], "there is no such file or directory"),
        (["blueprint", "show", "./leads/nowhere"], "it cannot be read: No such file or directory"),
        (["blueprint", "show", "."], "config.json: the file does not exist"),
        (["fit", "-f", str(EXAMPLES / "torch-agg.yaml")], "--blueprint: the model's files are not known"),
    ],
    ids=str,
)
def test_what_is_not_there_is_told(arguments, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("leads").mkdir()
    Path("leads/nowhere").symlink_to("elsewhere")

    assert run(arguments) == 1
    assert said in capsys.readouterr().err


def test_a_deployment_that_fits(model, tmp_path, capsys):
    file = deployment(tmp_path, parameters={"maxBatchSize": 8, "maxSeqLen": 8192})

    assert run(["fit", "-f", file, "--blueprint", model(), "--gpu", "H100-80GB"]) == 0
    assert "one agg: batch 8 × 8192 tokens on 1 GPU: fits: needs" in capsys.readouterr().out


def test_bounds_of_a_gpu_are_told_with_a_verdict_that_fits(model, tmp_path, capsys):
    file = deployment(tmp_path, parameters={"maxBatchSize": 8, "maxSeqLen": 8192})
    arguments = ["fit", "-f", file, "--blueprint", model()]

    assert run([*arguments, "--gpu", "H100-80GB"]) == 0
    assert "  bounds: first token after at least 133 ms, for 8,192 tokens" in capsys.readouterr().out
    assert run([*arguments, "--gpu", "H100-80GB", "-o", "json"]) == 0
    (role,) = json.loads(capsys.readouterr().out)["roles"]
    assert role["bounds"]["token_seconds"] == pytest.approx(0.00704, rel=0.01)
    assert run([*arguments, "--gpu-memory", "80Gi"]) == 0
    assert "bounds" not in capsys.readouterr().out


def test_what_follows_from_the_model_is_told(model, tmp_path, capsys):
    arguments = ["fit", "-f", deployment(tmp_path), "--blueprint", model(), "--gpu", "H100-80GB"]

    assert run(arguments) == 0
    assert "follows from the model: tensorParallelSize 1, maxSeqLen 131072" in capsys.readouterr().out
    assert run([*arguments, "-o", "json"]) == 0
    (role,) = json.loads(capsys.readouterr().out)["roles"]
    assert role["follows"] == {"maxSeqLen": 131072, "tensorParallelSize": 1}


def test_what_follows_from_the_model_is_judged_with_its_cache(model, tmp_path, capsys):
    assert run(["fit", "-f", deployment(tmp_path), "--blueprint", model(), "--gpu", "L4", "-o", "json"]) == 0
    (role,) = json.loads(capsys.readouterr().out)["roles"]

    assert role["asked"]["cache_tokens"] < role["asked"]["batch"] * role["asked"]["length"]
    assert role["bounds"]["tokens_per_second"] > 0


def test_a_deployment_that_does_not_fit_says_what_would(model, tmp_path, capsys):
    file = deployment(tmp_path, parameters={"maxBatchSize": 48, "maxSeqLen": 16384})

    assert run(["fit", "-f", file, "--blueprint", model(), "--gpu", "H100-80GB", "-o", "json"]) == 1
    (role,) = json.loads(capsys.readouterr().out)["roles"]

    assert not role["fits"]
    assert role["needed"] == sum(role["parts"].values()) > role["available"]
    assert {"maxBatchSize", "kvCacheDtype", "tensorParallelSize"} <= {each["parameter"] for each in role["changes"]}


def test_without_a_gpu_the_memory_limit_counts(model, tmp_path, capsys):
    arguments = ["--blueprint", model()]
    roomy = deployment(tmp_path, "torch", {"maxSeqLen": 4096, "maxBatchSize": 1}, {"memory": "40Gi"})
    assert run(["fit", "-f", roomy, *arguments]) == 0

    tight = deployment(tmp_path, "torch", {"maxSeqLen": 4096, "maxBatchSize": 1}, {"memory": "24Gi"})
    assert run(["fit", "-f", tight, *arguments]) == 1
    capsys.readouterr()

    none = deployment(tmp_path, "torch")
    assert run(["fit", "-f", none, *arguments]) == 1
    assert "spec.roles.agg.resources.limits.memory" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (["--gpu", "H100"], "more than one GPU has this name (got 'H100'). Use one of H100-80GB, H100-94GB."),
        (["--gpu", "X1"], "this GPU is not known"),
        (["--gpu-memory", "much"], "this is no amount of memory"),
        (["--gpu-memory", "0"], "this is no amount of memory"),
        (["--gpu-memory", "80"], "no GPU has so few bytes"),
    ],
    ids=str,
)
def test_a_gpu_that_is_none_is_refused(model, tmp_path, capsys, option, said):
    assert run(["fit", "-f", deployment(tmp_path), "--blueprint", model(), *option]) == 1
    assert said in capsys.readouterr().err


def explained(capsys, *arguments):
    assert run(["explain", "-o", "json", *arguments]) == 0
    document = json.loads(capsys.readouterr().out)
    (found,) = document
    return {row["name"]: (row["value"], row["source"]) for row in found["parameters"]}


def test_facts_of_the_model_reach_what_is_explained_and_rendered(model, tmp_path, capsys):
    file = deployment(tmp_path)

    assert explained(capsys, "-f", file)["maxSeqLen"][1] != "blueprint"
    assert explained(capsys, "-f", file, "--blueprint", model())["maxSeqLen"] == (131072, "blueprint")
    assert run(["render", "-f", file, "--blueprint", model()]) == 0
    assert "--max-model-len" in capsys.readouterr().out


@pytest.mark.parametrize(("config", "size"), [(DEEPSEEK_V3, 8), (LLAMA, None)], ids=["experts", "dense"])
def test_rules_know_whether_the_model_has_experts(model, tmp_path, capsys, config, size):
    rules = tmp_path / "rules"
    rules.mkdir()
    (rules / "vllm.rule").write_text("when is_moe and nextn == 1:\n    agg max_batch_size = 8\n")
    file = Path(deployment(tmp_path))
    document = yaml.safe_load(file.read_text())
    document["spec"]["rules"] = {"configMapRef": {"name": "mine"}}
    file.write_text(yaml.safe_dump(document))

    values = explained(capsys, "-f", str(file), "--rules", str(rules), "--blueprint", model(config))

    assert values["maxBatchSize"][0] == size


def test_validate_takes_facts_and_refuses_wrong_ones(model, tmp_path, capsys):
    file = deployment(tmp_path)

    assert run(["validate", "-f", file, "--blueprint", model()]) == 0
    assert run(["validate", "-f", file, "--blueprint", model({"model_type": "llama"})]) == 1
    assert "hidden_size: required, but missing" in capsys.readouterr().err


DESIGN = """\
apiVersion: tandem.dev/v1alpha1
kind: ModelBlueprint
metadata: {name: mine}
spec:
  design: {hardware: cpu, tiny: true, context: 4k}
"""


def synthesized(tmp_path, name, *arguments):
    spec = tmp_path / "spec.yaml"
    spec.write_text(DESIGN)
    assert run(["blueprint", "synth", str(spec), "-o", str(tmp_path / name), *arguments]) == 0
    root = tmp_path / name
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_s3_16_a_design_becomes_files(tmp_path, capsys):
    files = synthesized(tmp_path, "out", "--seed", "42")

    assert {"config.json", "architecture.yaml", "graph.json", "params_estimate.json", "ablations.yaml"} <= set(files)
    assert {"network/model.py", "network/train.py", "MODEL_CARD.md", "DEPLOYMENT.md"} <= set(files)
    assert set(capsys.readouterr().out.splitlines()) == {str(tmp_path / "out" / name) for name in files}


def test_files_that_are_there_are_not_replaced_without_force(tmp_path, capsys):
    first = synthesized(tmp_path, "out")
    kept = tmp_path / "out" / "network" / "model.py"
    kept.write_text("mine")
    (tmp_path / "out" / "config.json").unlink()

    assert run(["blueprint", "synth", str(tmp_path / "spec.yaml"), "-o", str(tmp_path / "out")]) == 1
    told = capsys.readouterr().err

    assert f"would be replaced ({len(first) - 1} of {len(first)} files" in told
    assert "--force" in told
    assert kept.read_text() == "mine"
    assert not (tmp_path / "out" / "config.json").exists()
    assert synthesized(tmp_path, "out", "--force") == first


def test_s3_05_the_files_have_the_numbers_of_the_resource(tmp_path):
    files = synthesized(tmp_path, "out")
    design = yaml.safe_load(DESIGN)["spec"]["design"]
    facts, _ = facts_of(from_design(BlueprintDesign(**design)), "spec.design", {}, {})
    numbers = json.loads(files["params_estimate.json"])
    architecture = yaml.safe_load(files["architecture.yaml"])

    assert numbers["total_params"] == numbers["trainable_params"] == facts["totalParams"]
    assert numbers["weight_bytes"] == facts["weightBytes"]["bfloat16"]
    assert numbers["kv_cache_bytes"] == facts["kv"]["bytesPerToken"] * facts["maxSeqLen"]
    assert numbers["kv_cache_gb"] == numbers["kv_cache_bytes"] / 1e9
    assert (architecture["digest"], architecture["max_seq_len"]) == (facts["digest"], facts["maxSeqLen"])
    assert architecture["dims"]["hidden_size"] == json.loads(files["config.json"])["hidden_size"] == 2048


def test_s3_11_the_same_spec_and_seed_give_the_same_bytes(tmp_path):
    one, two = synthesized(tmp_path, "one", "--seed", "7"), synthesized(tmp_path, "two", "--seed", "7")
    other = synthesized(tmp_path, "other", "--seed", "8")

    assert one == two
    assert {name for name in one if one[name] != other[name]} == {
        *("architecture.yaml", "MODEL_CARD.md", "network/data.py")
    }
    assert other["architecture.yaml"].replace(b"seed: 8", b"seed: 7") == one["architecture.yaml"]
    assert other["network/data.py"].replace(b"SEED: int = 8", b"SEED: int = 7") == one["network/data.py"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (DESIGN.replace("4k", "many"), "spec.design.context"),
        (DESIGN.replace("{hardware", "{family: diffusion, hardware"), "models of this family are not built yet"),
        (DESIGN.replace("design: {hardware: cpu, tiny: true, context: 4k}", "from: {inline: '{}'}"), "no single"),
    ],
)
def test_a_design_that_cannot_be_built_is_located(tmp_path, capsys, text, said):
    spec = tmp_path / "spec.yaml"
    spec.write_text(text)

    assert run(["blueprint", "synth", str(spec), "-o", str(tmp_path / "out")]) == 1
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
