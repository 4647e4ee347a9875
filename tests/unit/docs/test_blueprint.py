"""What the page about blueprints shows is what the commands print."""

import json
import re
from pathlib import Path

import pytest
import yaml

from tandem.blueprint.families import FAMILIES
from tandem.cli.app import run
from tests.unit.blueprint.configs import GOLDEN

PAGE = (Path(__file__).parents[3] / "docs" / "blueprint.md").read_text()
QWEN = {
    "model_type": "qwen2",
    "torch_dtype": "bfloat16",
    "hidden_size": 1536,
    "num_hidden_layers": 28,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "intermediate_size": 8960,
    "vocab_size": 151936,
    "tie_word_embeddings": True,
    "max_position_embeddings": 32768,
}


def shown(command):
    """The lines of the page below a command."""
    return re.search(rf"^\$ {re.escape(command)}.*\n((?:.+\n)+?)```", PAGE, re.MULTILINE)[1].splitlines()


@pytest.mark.parametrize(
    ("model", "config", "options"),
    [("qwen", QWEN, "--batch 8"), ("llama", GOLDEN[0].config(), "--batch 8 --gpu H100-80GB")],
    ids=["card", "bounds"],
)
def test_s3_15_the_cards_on_the_page_are_what_is_printed(tmp_path, capsys, model, config, options):
    (tmp_path / "config.json").write_text(json.dumps(config))
    begin, end = shown(f"tandem blueprint show ./models/{model} {options}"), "…"

    assert run(["blueprint", "show", str(tmp_path), *options.split()]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert [line for line in begin if line not in (*printed, end)] == []


def test_s3_15_the_verdict_on_the_page(tmp_path, capsys):
    (tmp_path / "config.json").write_text(json.dumps(GOLDEN[0].config()))
    spec = {
        "model": {"pvc": {"claimName": "m"}},
        "backend": "vllm",
        "parameters": {"maxBatchSize": 64, "maxSeqLen": 16384},
    }
    document = {
        "apiVersion": "tandem.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": "llama"},
        "spec": spec,
    }
    file = tmp_path / "deployment.yaml"
    file.write_text(yaml.safe_dump(document))

    assert run(["fit", "-f", str(file), "--blueprint", str(tmp_path), "--gpu", "H100-80GB"]) == 1
    assert capsys.readouterr().out.splitlines() == shown("tandem fit")


def test_s3_15_the_declaration_on_the_page_is_taken(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(re.search(r"```json\n(.*?)```", PAGE, re.DOTALL)[1])

    assert run(["blueprint", "show", str(path)]) == 0


RESOURCES = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("text", RESOURCES, ids=range(len(RESOURCES)))
def test_s3_15_a_resource_on_the_page_is_valid(text, tmp_path):
    path = tmp_path / "blueprint.yaml"
    path.write_text(text)

    assert run(["validate", "-f", str(path)]) == 0


def test_s3_15_the_design_on_the_page_is_what_it_says(tmp_path, capsys):
    path = tmp_path / "design.yaml"
    path.write_text(next(text for text in RESOURCES if "design:" in text))

    assert run(["blueprint", "synth", str(path), "-o", str(tmp_path / "out")]) == 0
    written = {Path(line).relative_to(tmp_path / "out").parts[0] for line in capsys.readouterr().out.splitlines()}
    assert {name for name in written if f"`{name}`" not in PAGE and f"`{name}/`" not in PAGE} == set()
    numbers = json.loads((tmp_path / "out" / "params_estimate.json").read_text())
    assert round(numbers["total_params"] / 1e9, 1) == 1.5


def test_every_architecture_is_on_the_page():
    assert len(FAMILIES) == 36  # a new row belongs into the page's list too
