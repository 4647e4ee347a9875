"""What can be wrong with a model's directory, each with its own message, and what is recorded of a good one."""

from __future__ import annotations

import json
import logging
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from safetensors.torch import load_file, save_file

from tandem_serve.engine import attention
from tandem_serve.engine import device as devices
from tandem_serve.engine.checkpoint import open_checkpoint
from tandem_serve.engine.loader import LoadedModel, LoadOptions, load
from tandem_serve.engine.progress import LoadProgress
from tandem_serve.problems import StartError
from tests.unit.serve import tiny
from tests.unit.serve.conftest import load_model


@pytest.fixture
def model_dir(llama_dir: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return shutil.copytree(llama_dir, tmp_path / "model")


def edit_tensors(directory: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    path = directory / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def refusal(directory: Path) -> str:
    with pytest.raises(StartError) as caught:
        load_model(directory)
    assert caught.value.exit_code == 1
    return str(caught.value)


def test_a_missing_directory(tmp_path: Path) -> None:
    assert f"--model = {tmp_path / 'no'}: there is no such directory" in refusal(tmp_path / "no")


def test_a_directory_without_config(model_dir: Path) -> None:
    (model_dir / "config.json").unlink()
    assert "config.json: the directory has no config.json" in refusal(model_dir)


@pytest.mark.parametrize("text", ["{", "[]", '{"model_type": "no-such-type"}', "{}"])
def test_a_config_that_is_none(model_dir: Path, text: str) -> None:
    (model_dir / "config.json").write_text(text)
    assert str(model_dir / "config.json") in refusal(model_dir)


def test_no_weights(model_dir: Path) -> None:
    (model_dir / "model.safetensors").unlink()
    assert "there is no model.safetensors" in refusal(model_dir)


def test_pickled_weights_are_refused_with_the_way_out(model_dir: Path) -> None:
    (model_dir / "model.safetensors").unlink()
    (model_dir / "pytorch_model.bin").write_bytes(b"\x80\x04")
    message = refusal(model_dir)
    assert "pytorch_model.bin" in message
    assert "Fix: convert them to safetensors" in message


def test_a_cut_file(model_dir: Path) -> None:
    path = model_dir / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    assert "model.safetensors" in refusal(model_dir)
    assert "it is cut" in refusal(model_dir)


def test_a_file_that_is_something_else(model_dir: Path) -> None:
    (model_dir / "model.safetensors").write_bytes(b"<html>not found</html>")
    assert "it is not a safetensors file" in refusal(model_dir)


def test_a_missing_shard(model_dir: Path) -> None:
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (model_dir / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "2 of the 2 files it names are missing" in refusal(model_dir)


def test_tensors_that_are_missing_are_named(model_dir: Path) -> None:
    edit_tensors(model_dir, lambda tensors: tensors.pop("model.layers.1.mlp.up_proj.weight"))
    message = refusal(model_dir)
    assert "model.layers.1.mlp.up_proj.weight: the model needs tensors that the checkpoint does not have" in message


def test_tensors_that_nobody_knows_are_named(model_dir: Path) -> None:
    edit_tensors(model_dir, lambda tensors: tensors.update({"model.layers.0.extra.weight": torch.zeros(2)}))
    assert "model.layers.0.extra.weight: the checkpoint has tensors that the model does not know" in refusal(model_dir)


def test_tensors_of_another_shape_are_named_with_both_shapes(model_dir: Path) -> None:
    tiny.edit_config(model_dir, intermediate_size=96)
    message = refusal(model_dir)
    assert (
        "model.layers.0.mlp.up_proj.weight: the checkpoint has shape [128, 64], config.json needs [96, 64]" in message
    )


def edit_header(directory: Path, **changes: object) -> None:
    """Changes what the header of the weights says of its first tensor."""
    path = directory / "model.safetensors"
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    header[min(name for name in header if name != "__metadata__")] |= changes
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])


@pytest.mark.parametrize(
    "changes", [{"dtype": "F99"}, {"shape": [-1, 3]}, {"shape": "x"}, {"data_offsets": [100, 0]}], ids=str
)
def test_a_header_that_cannot_be_is_told_with_its_file(model_dir: Path, changes: dict) -> None:
    edit_header(model_dir, **changes)
    assert str(model_dir / "model.safetensors") in refusal(model_dir)


def test_weights_that_are_a_directory(model_dir: Path) -> None:
    (model_dir / "model.safetensors").unlink()
    (model_dir / "model.safetensors").mkdir()
    assert "model.safetensors: cannot be read: Is a directory" in refusal(model_dir)


@pytest.mark.parametrize("name", ["../other.safetensors", "/etc/passwd"])
def test_an_index_names_files_beside_it(model_dir: Path, name: str) -> None:
    (model_dir / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    assert f"index.json = {name}: the files it names lie beside it" in refusal(model_dir)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"num_hidden_layers": 10**9}, "num_hidden_layers = 1000000000: the checkpoint has only"),
        ({"vocab_size": 10**12}, "the model cannot be made from it"),
        ({"hidden_act": "no-such"}, "the model cannot be made from it: KeyError: 'no-such'"),
        ({"rope_parameters": {"rope_type": "no-such"}}, "config.json: "),
        ({"hidden_size": "big"}, "'hidden_size' expected int, got str"),
    ],
    ids=str,
)
def test_a_config_that_no_model_can_be_made_from(model_dir: Path, changes: dict, reason: str) -> None:
    path = model_dir / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    assert reason in refusal(model_dir)


@pytest.mark.parametrize("content", [b"nope", b"\xff", b"[]", b'{"eos_token_id": "x"}', b'{"eos_token_id": [1, "x"]}'])
def test_a_generation_config_that_is_none(model_dir: Path, content: bytes) -> None:
    (model_dir / "generation_config.json").write_bytes(content)
    assert str(model_dir / "generation_config.json") in refusal(model_dir)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"[" * 100_000])
def test_a_config_that_cannot_be_read(model_dir: Path, content: bytes) -> None:
    (model_dir / "config.json").write_bytes(content)
    assert "config.json: malformed JSON" in refusal(model_dir)


def test_a_model_without_tokenizer(model_dir: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (model_dir / name).unlink()
    assert "no tokenizer could be loaded" in refusal(model_dir)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"model_type": "qwen2", "layer_types": ["full_attention", "linear_attention"]}, "layer_types[1]"),
        ({"model_type": "t5"}, "model_type = t5"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "quantization_config = gptq"),
        ({"model_type": "mamba"}, "model_type = mamba"),
    ],
)
def test_models_that_cannot_be_batched_exactly_are_refused(model_dir: Path, changes: dict, key: str) -> None:
    tiny.edit_config(model_dir, **changes)
    message = refusal(model_dir)
    assert key in message
    assert "config.json" in message


def test_rotations_that_depend_on_the_longest_text_beside_are_refused(model_dir: Path) -> None:
    factors = {"short_factor": [1.0] * 8, "long_factor": [2.0] * 8, "rope_theta": 1e4}
    rotation = {"rope_type": "longrope", "original_max_position_embeddings": 256, **factors}
    tiny.edit_config(model_dir, rope_parameters=rotation)
    message = refusal(model_dir)
    assert "rope_parameters.rope_type = longrope: tokens turn by other angles in texts of more than 256" in message
    assert "give --max-model-len 256" in message
    options = LoadOptions(directory=model_dir, max_model_len=256)
    assert load(options, LoadProgress(logging.getLogger("test"))).max_model_len == 256


@pytest.mark.parametrize("rule", ["position_bias", "indices"])
def test_a_model_that_attends_by_another_rule_is_refused(model_dir: Path, rule: str) -> None:
    packed = attention.packed_attention

    def with_a_rule(*args: Any, **kwargs: Any) -> Any:
        return packed(*args, **kwargs | {rule: torch.zeros(1)})

    with mock.patch("tandem_serve.engine.attention.packed_attention", with_a_rule):
        message = refusal(model_dir)
    attention.register()
    assert f"model_type = llama: its layers attend by {rule}, which the packed attention does not know" in message


def test_a_model_that_does_not_pass_its_window_on_is_refused(model_dir: Path) -> None:
    with mock.patch("tandem_serve.engine.support.windows", return_value=[None, 64]):
        assert "its layers attend within {0: None, 1: None}" in refusal(model_dir)


def test_a_model_whose_packed_logits_differ_is_refused(model_dir: Path) -> None:
    with mock.patch("tandem_serve.engine.kernels.attend", lambda query, *_: query):
        assert "its batched logits differ from its own" in refusal(model_dir)


def test_a_context_beyond_the_models_is_refused(model_dir: Path) -> None:
    options = LoadOptions(directory=model_dir, max_model_len=2000)
    with pytest.raises(StartError, match="--max-model-len = 2000: the model was made for 1024 positions"):
        load(options, LoadProgress(logging.getLogger("test")))


def test_s1_14_every_step_of_loading_is_logged_with_its_seconds(
    llama_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    progress = LoadProgress(logging.getLogger("tandem_serve.load"))
    with caplog.at_level(logging.INFO, logger="tandem_serve"):
        load(LoadOptions(directory=llama_dir), progress)
    steps = [vars(record) for record in caplog.records if record.message == "load step"]
    assert [line["step"] for line in steps] == ["device", "config", "tokenizer", "weights", "eval"]
    assert all(line["seconds"] >= 0 for line in steps)
    assert progress.loaded_bytes == progress.total_bytes > 0


@pytest.mark.parametrize(
    ("cuda", "mps", "device", "dtype"),
    [
        ("new", True, "cuda", torch.bfloat16),
        ("old", True, "cuda", torch.float16),
        (None, True, "mps", torch.float32),
        (None, False, "cpu", torch.float32),
    ],
)
def test_s1_11_the_device_is_cuda_before_mps_before_cpu(
    cuda: str | None, mps: bool, device: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda is not None)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: cuda == "new")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    chosen = devices.choose_device()
    assert (chosen.type, devices.choose_dtype("auto", chosen)) == (device, dtype)
    assert devices.choose_dtype("float16", chosen) is torch.float16


def test_s1_11_the_loaded_model_is_in_the_chosen_type(llama: LoadedModel, llama_dir: Path) -> None:
    assert llama.layout.dtype is torch.float32
    options = LoadOptions(directory=llama_dir, dtype="bfloat16")
    half = load(options, LoadProgress(logging.getLogger("test")))
    assert half.runner.model.dtype is half.layout.dtype is torch.bfloat16


def test_the_digest_knows_models_apart_but_not_where_they_lie(
    llama: LoadedModel, model_dir: Path, tmp_path: Path
) -> None:
    assert open_checkpoint(model_dir).digest() == llama.digest
    tiny.edit_config(model_dir, transformers_version="0.0")
    assert open_checkpoint(model_dir).digest() == llama.digest
    other_weights = tiny.save_llama(tmp_path / "other", seed=5)
    assert open_checkpoint(other_weights).digest() != llama.digest
    tiny.edit_config(model_dir, rms_norm_eps=1e-3)
    assert open_checkpoint(model_dir).digest() != llama.digest


@pytest.mark.parametrize(
    ("files", "cpus"),
    [
        ({"cpu.max": "150000 100000"}, 2),
        ({"cpu.max": "50000 100000"}, 1),
        ({"cpu.max": "max 100000"}, 8),
        ({"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}, 3),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 8),
        ({}, 8),
    ],
)
def test_threads_follow_the_cgroup(
    files: dict[str, str], cpus: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    assert devices.cpu_quota(tmp_path) == cpus


@pytest.mark.parametrize(("text", "cpus"), [("3", 3), ("99", 8), ("0", 8), ("many", 8)])
def test_the_environment_may_limit_the_threads(
    text: str, cpus: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setenv("OMP_THREAD_LIMIT", text)
    assert devices.cpu_quota(tmp_path) == cpus


@pytest.mark.parametrize(
    ("parameters", "cpus", "chosen", "idle"),
    [(58_000_000, 2, "", True), (58_000_000, 1, "", False), (58_000_000, 2, "2", False), (260_000_000, 2, "", False)],
)
def test_steps_of_small_models_leave_cpus_idle(
    parameters: int, cpus: int, chosen: str, monkeypatch: pytest.MonkeyPatch, *, idle: bool
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", chosen)
    assert devices.leaves_idle(torch.device("cpu"), parameters, cpus) is idle
    assert not devices.leaves_idle(torch.device("cuda"), parameters, cpus)


def test_memory_follows_the_cgroup(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("400000\n")
    assert devices.memory_available(tmp_path) == 600_000


def test_small_models_run_on_one_thread() -> None:
    assert devices.threads_for(3_000_000, 2) == 1
    assert devices.threads_for(58_000_000, 2) == 1
    assert devices.threads_for(260_000_000, 2) == 2
    assert devices.threads_for(260_000_000, 64) == 4


def test_a_step_of_many_tokens_runs_on_more_threads() -> None:
    assert devices.threads_for(58_000_000, 2, 47) == 1
    assert devices.threads_for(58_000_000, 2, 512) == 2
    assert devices.threads_for(3_000_000, 2, 512) == 1
