"""The files of a designed model: numbers that agree, code that runs, and nothing that is not the blueprint's."""

import dataclasses
import importlib
import itertools
import json
import re
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest
import yaml
from jinja2 import Environment, meta, nodes

from tandem.api.deployment import ModelDeployment
from tandem.api.problems import Refused
from tandem.api.resources import BlueprintDesign
from tandem.blueprint.codegen import code, documents
from tandem.blueprint.config import from_config
from tandem.blueprint.design import from_design
from tandem.blueprint.synthesis import artefacts
from tandem.controller.blueprint_status import facts_of
from tests.unit.blueprint.configs import DEEPSEEK_V3, GOLDEN, config

DESIGN = BlueprintDesign(hardware="cpu", tiny=True, context="4k")
OTHER = BlueprintDesign(hardware="datacenter_gpu", modality="audio", context="8k", seed=43)
SMALL = from_config(config("llama", (32, 2, 4, 2, 8, 48, 300), max_position_embeddings=64))
TIED = from_config(config("llama", (32, 2, 4, 2, 8, 48, 300), max_position_embeddings=64, tie_word_embeddings=True))
TEMPLATES = sorted(
    (each for each in (files("tandem.blueprint") / "templates").iterdir() if each.name.endswith(".j2")),
    key=lambda each: each.name,
)
FILES = (
    *("MODEL_CARD.md", "DEPLOYMENT.md", "ablations.yaml", "architecture.yaml", "config.json", "graph.json"),
    *(f"network/{name}.py" for name in ("__init__", "model", "layers", "data", "train", "eval")),
    "params_estimate.json",
)


def written(directory, blueprint):
    for name, text in code(blueprint).items():
        path = directory / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return directory


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Imports the code of a blueprint, as a package that no other test has."""
    names = itertools.count()

    def imported(blueprint):
        pytest.importorskip("torch", reason="needs the extra `serve`")
        name = f"network_{next(names)}_{tmp_path.name}"
        (written(tmp_path, blueprint) / "network").rename(tmp_path / name)
        monkeypatch.syspath_prepend(str(tmp_path))
        made.append(name)
        return importlib.import_module(name)

    made = []
    yield imported
    for loaded in [each for each in sys.modules if each.split(".")[0] in made]:
        del sys.modules[loaded]


def test_s3_05_the_files_and_their_numbers():
    texts = artefacts(DESIGN)
    facts, _ = facts_of(from_design(DESIGN), "spec.design", {}, {})
    numbers = json.loads(texts["params_estimate.json"])
    graph = json.loads(texts["graph.json"])
    ablations = yaml.safe_load(texts["ablations.yaml"])

    assert set(texts) == set(FILES)
    assert {"total_params", "trainable_params", "activation_memory_gb", "kv_cache_gb", "notes"} <= set(numbers)
    assert numbers["total_params"] == numbers["trainable_params"] == facts["totalParams"]
    assert sum(node["parameters"] for node in graph["nodes"]) == facts["totalParams"]
    assert [node["kind"] for node in graph["nodes"]] == ["embedding", *["layer"] * 19, "head"]
    assert graph["edges"] == [list(edge) for edge in itertools.pairwise(node["id"] for node in graph["nodes"])]
    assert ablations["base"]["kv_bytes_per_token"] == facts["kv"]["bytesPerToken"]
    assert ablations["base"]["weight_bytes"] == facts["weightBytes"]["bfloat16"]
    assert len({document["digest"] for document in (graph, ablations, numbers)} | {facts["digest"]}) == 1


def test_s3_05_each_ablation_has_the_numbers_of_the_model_that_it_changes():
    texts = artefacts(DESIGN)

    for ablation in yaml.safe_load(texts["ablations.yaml"])["ablations"]:
        changed = from_config({**json.loads(texts["config.json"]), **ablation["change"]})
        assert ablation["total_params"] == changed.total_params
        assert ablation["kv_bytes_per_token"] == changed.kv_bytes_per_token


def test_s3_09_dimensions_of_the_code_are_those_of_the_yaml_and_the_blueprint():
    texts, blueprint = artefacts(DESIGN), from_design(DESIGN)
    model, dims = texts["network/model.py"], yaml.safe_load(texts["architecture.yaml"])["dims"]

    assert f"    hidden_size: int = {blueprint.dims.hidden_size}\n" in model
    assert f"    num_layers: int = {dims['layers']}\n" in model
    assert f"PARAMETERS: int = {blueprint.total_params}\n" in model
    assert dims == {name: value for name, value in dataclasses.asdict(blueprint.dims).items() if value is not None}


def test_s3_09_the_package_imports_without_torch_and_raises_only_when_it_runs(tmp_path):
    program = (
        "import sys; sys.modules['torch'] = None; import network, network.data, network.train, network.eval\n"
        "model = network.Model(network.Config()); print(network.PARAMETERS)\n"
        "try:\n    model.forward([1])\nexcept RuntimeError as error:\n    print(error)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program],
        cwd=written(tmp_path, from_design(DESIGN)),
        capture_output=True,
        text=True,
        check=True,
    )

    assert ran.stdout.splitlines() == [
        str(from_design(DESIGN).total_params),
        "running the model needs torch: pip install torch",
    ]


@pytest.mark.parametrize("blueprint", [SMALL, TIED], ids=["untied", "tied"])
def test_s3_09_one_training_step_on_a_cpu(package, blueprint):
    network = package(blueprint)
    train, data = (importlib.import_module(f"{network.__name__}.{name}") for name in ("train", "data"))
    model = train.new_model(network.Config(dropout=0.1))
    before = [parameter.detach().clone() for parameter in model.parameters()]

    examples = data.batches(data.random_tokens(65), size=2, length=32)
    (loss,) = train.train(model, examples, steps=1)

    assert 0 < loss < 20
    assert all(not old.equal(new) for old, new in zip(before, model.parameters(), strict=True))
    assert sum(parameter.numel() for parameter in model.parameters()) == blueprint.total_params


def test_s3_08_the_generated_model_has_as_many_parameters_as_the_blueprint_says(package):
    torch = pytest.importorskip("torch", reason="needs the extra `serve`")
    network = package(from_design(BlueprintDesign()))
    with torch.device("meta"):
        model = network.Model(network.Config())

    assert sum(parameter.numel() for parameter in model.parameters()) == network.PARAMETERS
    assert from_design(BlueprintDesign()).total_params == network.PARAMETERS


def test_the_generated_model_computes_what_llama_does_with_its_weights(package):
    torch = pytest.importorskip("torch", reason="needs the extra `serve`")
    transformers = pytest.importorskip("transformers", reason="needs the extra `serve`")
    network = package(SMALL)
    values = config("llama", (32, 2, 4, 2, 8, 48, 300), max_position_embeddings=64)
    theirs = transformers.LlamaForCausalLM(transformers.LlamaConfig(**values)).float().eval()
    ours = network.Model(network.Config()).eval()
    ours.load_state_dict(theirs.state_dict())
    tokens = torch.arange(40).reshape(2, 20)

    with torch.inference_mode():
        torch.testing.assert_close(ours(tokens), theirs(tokens).logits)


@pytest.mark.parametrize("blueprint", [SMALL, TIED], ids=["untied", "tied"])
def test_weights_that_were_trained_are_saved_in_the_models_format_and_measured(package, blueprint, tmp_path, capsys):
    safetensors = pytest.importorskip("safetensors", reason="needs the extra `serve`")
    network = package(blueprint)
    train, measure = (importlib.import_module(f"{network.__name__}.{name}") for name in ("train", "eval"))

    train.main(["--steps", "2", "--length", "32", "--save", str(tmp_path / "weights")])
    measure.main(["--weights", str(tmp_path / "weights" / train.WEIGHTS), "--length", "32"])

    with safetensors.safe_open(tmp_path / "weights" / train.WEIGHTS, "pt") as file:
        saved = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no map
    assert {str(tensor.dtype) for tensor in saved.values()} == {"torch.bfloat16"}
    assert sum(tensor.numel() for tensor in saved.values()) == blueprint.total_params
    assert "model.layers.1.mlp.down_proj.weight" in saved
    assert "perplexity" in capsys.readouterr().out


def test_training_is_the_same_for_a_seed_and_is_measured(package):
    network = package(SMALL)
    train, data, measure = (importlib.import_module(f"{network.__name__}.{name}") for name in ("train", "data", "eval"))

    def losses():
        examples = data.batches(data.random_tokens(65), size=2, length=16)
        model = train.new_model(network.Config(dropout=0.5))
        return train.train(model, examples, steps=3), measure.mean_loss(model, examples, count=2)

    assert losses() == losses()


@pytest.mark.parametrize(
    ("content", "said"), [(b"", "are no list"), (b"123", "are no list"), (b"\xff" * 8, "a token is not from 0 to 299")]
)
def test_a_file_of_other_tokens_is_refused(package, tmp_path, content, said):
    data = importlib.import_module(f"{package(SMALL).__name__}.data")
    (tmp_path / "tokens").write_bytes(content)

    with pytest.raises(ValueError, match=said):
        data.read_tokens(tmp_path / "tokens")


def test_the_code_is_clean(tmp_path):
    root = Path(__file__).parents[3]
    written(tmp_path, SMALL)

    for arguments in (["check", "--no-cache", "--ignore", "INP001"], ["format", "--no-cache", "--check"]):
        ran = subprocess.run(
            [sys.executable, "-m", "ruff", *arguments, "--config", str(root / "pyproject.toml"), str(tmp_path)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr


NUMBER = re.compile(r"(?<![\w.])\d[\d,]*(?:\.\d+)?(?![\w.]*[A-Za-z])")


@pytest.mark.parametrize("design", [DESIGN, OTHER], ids=["small", "large"])
def test_s3_10_card_and_deployment_print_only_numbers_of_the_blueprint(design):
    blueprint = from_design(design)
    known = set(map(str, _numbers_of(dataclasses.asdict(blueprint))))
    known |= {f"{size / 2**power:.2f}" for size in map(int, known) for power in (20, 30)}
    known |= {size for text in documents(blueprint).values() for size in _sizes_of_formats(text)}

    for name, text in documents(blueprint).items():
        assert blueprint.digest in text
        printed = {number.rstrip(",").replace(",", "") for number in NUMBER.findall(text)}
        assert printed
        assert printed <= known, name


def _numbers_of(value):
    if isinstance(value, dict):
        return [found for item in value.values() for found in _numbers_of(item)]
    if isinstance(value, list | tuple):
        return [found for item in value for found in _numbers_of(item)]
    return [value] if type(value) is int else []


def _sizes_of_formats(text):
    """What stands in the table of formats, whose rows another test compares."""
    rows = re.findall(r"^\| [a-z0-9_-]+ \| ([\d,]+) \| ([\d.]+) [GM]iB \|$", text, re.MULTILINE)
    return [number.replace(",", "") for row in rows for number in row]


def test_s3_10_the_table_of_formats_is_the_blueprints():
    facts, _ = facts_of(from_design(DESIGN), "spec.design", {}, {})
    rows = re.findall(
        r"^\| ([a-z0-9_-]+) \| ([\d,]+) \|", documents(from_design(DESIGN))["DEPLOYMENT.md"], re.MULTILINE
    )

    assert {name: int(size.replace(",", "")) for name, size in rows} == facts["weightBytes"]


def test_s3_10_the_deployment_that_it_shows_is_one():
    text = documents(from_design(DESIGN))["DEPLOYMENT.md"]
    (shown,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)

    deployment = ModelDeployment.model_validate(yaml.safe_load(shown))

    assert deployment.spec.parameters.max_seq_len == 4096


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda each: each.name)
def test_s3_13_templates_name_nothing_but_the_blueprint(template):
    tree = Environment(autoescape=True, extensions=[]).parse(_without_filters(template.read_text(encoding="utf-8")))

    assert meta.find_undeclared_variables(tree) == {"blueprint"}


def _without_filters(text):
    return re.sub(r"\| *(shown|plain|formats)", "", text)


# What the code has of numbers that are no dimensions: where a layer splits, what a person may leave out.
NOT_DIMENSIONS = {"0", "0.0", "1", "2", "-1", "-2", "1e4", "1e-6", "0.02", "3e-4", "32", "4", "100"}


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda each: each.name)
def test_s3_13_templates_hold_no_dimension(template):
    tree = Environment(autoescape=True).parse(_without_filters(template.read_text(encoding="utf-8")))
    text = "".join(node.data for node in tree.find_all(nodes.TemplateData))

    found = set(re.findall(r"(?<![\w.])-?\d[\d_]*(?:\.\d+)?(?:e-?\d+)?", text))

    assert found <= NOT_DIMENSIONS
    assert not list(tree.find_all(nodes.Const)) or all(isinstance(c.value, str) for c in tree.find_all(nodes.Const))


@pytest.mark.parametrize("name", FILES)
def test_s3_13_another_blueprint_changes_every_file(name):
    texts = [artefacts(design)[name] for design in (DESIGN, DESIGN.model_copy(update={"context": "8k"}), OTHER)]

    assert len(set(texts)) == 3


@pytest.mark.parametrize(
    "change",
    [
        {"hidden_size": 40},
        {"num_hidden_layers": 3},
        {"num_attention_heads": 8},
        {"num_key_value_heads": 1},
        {"head_dim": 16},
        {"intermediate_size": 50},
        {"vocab_size": 301},
        {"max_position_embeddings": 65},
        {"tie_word_embeddings": True},
        {"dtype": "float32"},
    ],
    ids=str,
)
def test_s3_13_each_fact_changes_every_file(change):
    changed = from_config(
        {**config("llama", (32, 2, 4, 2, 8, 48, 300), max_position_embeddings=64), **change},
    )

    for make in (code, documents):
        before, after = make(SMALL), make(changed)
        assert [name for name in before if before[name] == after[name]] == []


def test_s3_14_code_and_yaml_agree():
    """Creation, determinism, dimensions in the code, and code against YAML, read as a person would with grep."""
    texts = artefacts(DESIGN)
    hidden = re.search(r"hidden_size: int = (\d+)", texts["network/model.py"])
    layers = re.search(r"num_layers: int = (\d+)", texts["network/model.py"])
    heads = re.search(r"num_heads: int = (\d+)", texts["network/model.py"])
    vocabulary = re.search(r"VOCAB_SIZE: int = (\d+)", texts["network/data.py"])

    assert artefacts(DESIGN) == texts
    assert hidden[1] == re.search(r"hidden_size: (\d+)", texts["architecture.yaml"])[1] == "2048"
    assert layers[1] == re.search(r"layers: (\d+)", texts["architecture.yaml"])[1] == "19"
    assert heads[1] == re.search(r"heads: (\d+)", texts["architecture.yaml"])[1] == "8"
    assert vocabulary[1] == re.search(r"vocab_size: (\d+)", texts["architecture.yaml"])[1] == "50257"


HOSTILE = (
    '"""\nimport os\n',
    "a'b\"c\\",
    "x\nimport os #",
    "{{ 7 * 7 }}",
    "{% raw %}",
    "\u2028import os",
    "</td><script>",
)


@pytest.mark.parametrize("text", HOSTILE, ids=repr)
def test_texts_of_other_people_stay_texts(text):
    blueprint = dataclasses.replace(SMALL, digest=text)

    for name, made in code(blueprint).items():
        lines = [line for line in made.split("\n") if line.startswith("# Blueprint ")]
        assert [json.loads(line.removeprefix("# Blueprint ")) for line in lines] == [text]
        tree = compile(made, name, "exec")
        assert "os" not in tree.co_names
    clean, theirs = documents(SMALL), documents(dataclasses.replace(blueprint, architecture=text))
    for name, made in theirs.items():
        assert len(made.splitlines()) == len(clean[name].splitlines())
        assert not re.search(r"[<>{}%]", made)


@pytest.mark.parametrize(
    "blueprint",
    [
        from_config(DEEPSEEK_V3),
        from_config(GOLDEN[8].config()),
        from_config(config("gemma", (32, 2, 4, 2, 8, 48, 300))),
        from_config(config("llama", (32, 2, 4, 2, 8, 48, 300), attention_bias=True)),
        from_config(config("llama", (32, 2, 4, 3, 8, 48, 300))),
        from_config(config("llama", (32, 2, 4, 2, 7, 48, 300))),
        dataclasses.replace(SMALL, max_seq_len=None),
        dataclasses.replace(SMALL, structure=None),
    ],
)
def test_code_of_another_form_is_refused(blueprint):
    with pytest.raises(Refused) as refused:
        code(blueprint)

    (problem,) = refused.value.problems
    assert "Llama" in problem.fix
