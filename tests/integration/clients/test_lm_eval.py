"""lm_eval measures the served model: the figures must be those that the model itself gives."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

pytestmark = pytest.mark.integration

CHOICES = [" fox", " dog", " bird", " worm at dawn"]
DOCUMENTS = [
    {"text": text, "answer": number % len(CHOICES)}
    for number, text in enumerate(
        [
            "the quick brown",
            "the lazy",
            "jumps over the lazy",
            "while the early",
            "at dawn",
            "catches the",
            "the",
            "over",
        ]
    )
]
TASK = """
task: tandem_choices
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
output_type: multiple_choice
test_split: test
doc_to_text: "{{{{text}}}}"
doc_to_choice: {choices}
doc_to_target: answer
target_delimiter: ""
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""


def own_scores(model: Path) -> list[list[float]]:
    """The log probability of each choice after each text, from transformers alone."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    network = AutoModelForCausalLM.from_pretrained(model).eval()

    def score(text: str, choice: str) -> float:
        context, whole = (tokenizer.encode(one, add_special_tokens=False) for one in (text, text + choice))
        assert whole[: len(context)] == context
        with torch.inference_mode():
            logprobs = network(torch.tensor([whole])).logits[0].log_softmax(-1)
        return sum(float(logprobs[place - 1, whole[place]]) for place in range(len(context), len(whole)))

    return [[score(document["text"], choice) for choice in CHOICES] for document in DOCUMENTS]


def evaluate(url: str, python: Path, directory: Path) -> list[dict[str, Any]]:
    """Runs the task and returns what was logged of each document."""
    data = directory / "data.json"
    data.write_text("\n".join(json.dumps(document) for document in DOCUMENTS))
    tasks = directory / "tasks"
    tasks.mkdir()
    (tasks / "choices.yaml").write_text(TASK.format(data=data, choices=json.dumps(CHOICES)))
    arguments = f"base_url={url}/v1/completions,model=tiny,tokenizer_backend=remote,max_length=1024,num_concurrent=2"
    command = [python, "-m", "lm_eval", "run", "--model", "local-completions", "--model_args", arguments,
               "--tasks", "tandem_choices", "--include_path", tasks, "--batch_size", "4",
               "--output_path", directory / "out", "--log_samples"]  # fmt: skip
    home = {"HF_HOME": str(directory / "hf"), "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=600, env={**os.environ, **home}, cwd=directory, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    (samples,) = (directory / "out").rglob("samples_*.jsonl")
    return sorted((json.loads(line) for line in samples.read_text().splitlines()), key=lambda one: one["doc_id"])


def test_log_probabilities_of_a_task_are_those_of_the_model(
    url: str, model: Path, client_environment: Path, tmp_path: Path
) -> None:
    samples = evaluate(url, client_environment, tmp_path)
    for sample, expected in zip(samples, own_scores(model), strict=True):
        found = [float(one[0]) for one in sample["filtered_resps"]]
        assert found == pytest.approx(expected, abs=1e-3)
        assert sample["acc"] == float(expected.index(max(expected)) == int(sample["target"]))
