"""Dimensions of a new model from what it is for."""

import itertools
import json
import os
import subprocess
import sys

import pytest

from tandem.api.problems import Refused
from tandem.api.resources import BlueprintDesign
from tandem.blueprint.design import choose_dims, context_tokens, design_config, from_design
from tandem.blueprint.document import to_dict
from tandem.blueprint.synthesis import artefacts

EVERY = [
    {"family": family, "modality": modality, "hardware": hardware, "tiny": tiny, "real_time": real_time}
    for family, modality, hardware, tiny, real_time in itertools.product(
        ("transformer", "diffusion"),
        ("text", "image", "audio", "video"),
        ("edge", "cpu", "gpu", "datacenter_gpu"),
        (False, True),
        (False, True),
    )
]


@pytest.mark.parametrize(
    ("design", "dims"),
    [
        ({}, (4096, 32, 16)),
        ({"family": "diffusion"}, (2048, 24, 8)),
        ({"real_time": True}, (2048, 32, 8)),
        ({"hardware": "edge"}, (2048, 32, 8)),
        ({"hardware": "cpu"}, (2048, 32, 8)),
        ({"hardware": "cpu", "real_time": True}, (2048, 32, 8)),
        ({"hardware": "datacenter_gpu"}, (6144, 32, 24)),
        ({"modality": "video"}, (4096, 40, 16)),
        ({"modality": "audio"}, (4096, 28, 16)),
        ({"tiny": True}, (4096, 19, 16)),
        ({"family": "diffusion", "modality": "audio", "tiny": True}, (2048, 12, 8)),
        ({"family": "diffusion", "hardware": "datacenter_gpu"}, (3072, 24, 12)),
    ],
    ids=str,
)
def test_s3_06_the_table_of_dimensions(design, dims):
    assert choose_dims(BlueprintDesign(**design)) == dims


@pytest.mark.parametrize("design", EVERY, ids=lambda design: "-".join(map(str, design.values())))
def test_s3_06_heads_always_share_the_width_evenly(design):
    hidden, layers, heads = choose_dims(BlueprintDesign(**design))

    assert hidden % heads == 0
    assert layers >= 12
    assert heads >= 8


@pytest.mark.parametrize(
    ("text", "tokens"),
    [("128k", 131_072), ("8K", 8192), ("1m", 1_048_576), ("2M", 2_097_152), ("2048", 2048), ("1", 1)],
)
def test_s3_07_context_lengths(text, tokens):
    assert context_tokens(text) == tokens


@pytest.mark.parametrize("text", ["", "k", "0", "0k", "-1", "1.5k", "128kb", "many", "99999m", "1e3", "٣", "1" * 5000])
def test_s3_07_what_is_no_length_is_refused_and_not_2048(text):
    with pytest.raises(Refused) as refused:
        context_tokens(text)

    (problem,) = refused.value.problems
    assert problem.path == "spec.design.context"
    assert problem.fix


def test_s3_07_vocabulary_and_images():
    blueprint = from_design(BlueprintDesign(modality="image"))

    assert blueprint.vocab_size == 50_257
    assert (blueprint.num_channels, blueprint.image_size) == (3, 224)
    assert from_design(BlueprintDesign(modality="audio")).sample_rate == 16_000
    assert from_design(BlueprintDesign()).image_size is None


def test_s3_08_the_count_is_that_of_the_model_it_describes():
    torch = pytest.importorskip("torch", reason="needs the extra `serve`")
    transformers = pytest.importorskip("transformers", reason="needs the extra `serve`")
    design = BlueprintDesign(tiny=True, context="4k")
    values = {key: value for key, value in design_config(design).items() if key not in ("model_type", "architectures")}
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**values))

    assert from_design(design).total_params == sum(size.numel() for size in model.parameters())


def test_s3_11_a_seed_changes_no_dimension():
    one, other = (to_dict(from_design(BlueprintDesign(seed=seed))) for seed in (1, 2))

    assert {key for key in one if one[key] != other[key]} == {"seed"}


def test_s3_11_the_same_design_gives_the_same_bytes_in_every_process():
    code = (
        "import json, sys; from tandem.api.resources import BlueprintDesign; "
        "from tandem.blueprint.synthesis import artefacts; "
        "print(json.dumps(artefacts(BlueprintDesign(**json.load(sys.stdin)))), end='')"
    )
    design = {"modality": "video", "seed": 7}
    texts = {
        subprocess.run(
            [sys.executable, "-c", code],
            input=json.dumps(design),
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "99")
    }

    assert texts == {json.dumps(artefacts(BlueprintDesign(**design)))}


def test_a_family_that_is_not_built_yet_is_refused():
    with pytest.raises(Refused) as refused:
        from_design(BlueprintDesign(family="diffusion"))

    assert refused.value.problems[0].path == "spec.design.family"
