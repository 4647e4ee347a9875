"""Loads a model once: device, tokenizer, weights, checks; each step timed, bytes counted."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from tandem_serve.engine import device as devices
from tandem_serve.engine import selfcheck, support
from tandem_serve.engine.checkpoint import Checkpoint, open_checkpoint
from tandem_serve.engine.int8_linear import quantise_linears
from tandem_serve.engine.kv_cache import KvLayout
from tandem_serve.engine.progress import LoadProgress
from tandem_serve.engine.resident import MappedFiles
from tandem_serve.engine.runner import ModelRunner
from tandem_serve.problems import EXIT_LOAD, Problem, StartError, load_error, usage_error

log = logging.getLogger(__name__)
_EXPORT_AGAIN = "use the config.json this checkpoint was saved with, or export it again"
_NAMED = 5  # wrong tensors named in one message


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """What the command line says about loading. `max_model_len` None: what the model's config allows."""

    directory: Path
    tokenizer_directory: Path | None = None
    dtype: str = "auto"
    max_model_len: int | None = None
    trust_remote_code: bool = False
    quantization: str | None = None


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A model ready to generate, and what others need to know of it."""

    runner: ModelRunner
    beside: ModelRunner | None
    """Runs prompts on the CPUs that a step of running sequences leaves idle, if it leaves any."""
    tokenizer: Any
    model_type: str
    vocab_size: int
    device: torch.device
    layout: KvLayout
    eos_ids: frozenset[int]
    max_model_len: int
    digest: str
    parameter_count: int
    weight_bytes: int
    rope: dict[str, Any]


def load(options: LoadOptions, progress: LoadProgress) -> LoadedModel:
    """Loads the model of `options.directory`. Raises `StartError` with a located reason."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    checkpoint = open_checkpoint(options.directory)
    progress.total_bytes = checkpoint.total_bytes
    with progress.step("device"):
        device = devices.choose_device()
        dtype = _dtype(options, device)
        cpus = devices.cpu_quota()
        devices.set_threads(cpus)
    with progress.step("config"):
        config, model_class = _configure(options, checkpoint)
        max_model_len = _max_model_len(options, config)
        support.refuse_unsupported(config, model_class, max_model_len=max_model_len)
    with progress.step("tokenizer"):
        tokenizer = _tokenizer(options)
    with progress.step("weights"):
        model = _weights(checkpoint, config, model_class, dtype=dtype, device=device, count=progress.add)
    with progress.step("eval"):
        model.eval()
        # Numbers only: whoever holds the weights themselves would keep them in memory beside the packed ones.
        parameter_count = sum(parameter.numel() for parameter in model.parameters())
        weight_bytes = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
        threads = partial(devices.threads_for, parameter_count, cpus)
        devices.set_threads(threads())
        if options.quantization is not None:
            weight_bytes -= _quantise(model, checkpoint, progress)
        layout = support.kv_layout(config, dtype=dtype, device=device)
        runner = selfcheck.check(model, layout, threads=threads)
        beside = None
        if devices.leaves_idle(device, parameter_count, cpus):
            beside = ModelRunner(model, threads=partial(devices.threads_for, parameter_count, cpus - 1))
        digest = checkpoint.digest(quantization=options.quantization)
    return LoadedModel(
        runner=runner,
        beside=beside,
        tokenizer=tokenizer,
        model_type=config.model_type,
        vocab_size=config.get_text_config(decoder=True).vocab_size,
        device=device,
        layout=layout,
        eos_ids=_eos_ids(options.directory, config, tokenizer),
        max_model_len=max_model_len,
        digest=digest,
        parameter_count=parameter_count,
        weight_bytes=weight_bytes,
        rope=_rope(config),
    )


def _dtype(options: LoadOptions, device: torch.device) -> torch.dtype:
    if options.quantization is None:
        return devices.choose_dtype(options.dtype, device)
    value = options.quantization
    if device.type != "cpu":
        reason = f"weights are quantised on the CPU only, and this process runs on {device.type}"
        raise usage_error("--quantization", value=value, reason=reason, fix="leave the flag out")
    return torch.bfloat16  # see Settings: nothing else is asked for together with it


def _quantise(model: PreTrainedModel, checkpoint: Checkpoint, progress: LoadProgress) -> int:
    """Returns the bytes saved."""
    before = sum(parameter.nbytes for parameter in model.parameters())
    saved = quantise_linears(model, moved=progress.moved)
    if saved <= 0:
        path = str(checkpoint.directory / "config.json")
        reason = "none of the model's weights is that of a plain linear layer, so none can be quantised"
        raise load_error(path, reason=reason, fix="leave out --quantization")
    log.info("quantised", extra={"weight_bytes_before": before, "weight_bytes": before - saved})
    return saved


def _configure(options: LoadOptions, checkpoint: Checkpoint) -> tuple[Any, type[PreTrainedModel]]:
    path = checkpoint.directory / "config.json"
    try:
        config = AutoConfig.from_pretrained(checkpoint.directory, trust_remote_code=options.trust_remote_code)
        model_class = _model_class(config, options, checkpoint)
    except StartError:
        raise
    except Exception as error:
        fix = "give a config.json that transformers can read"
        raise load_error(str(path), reason=_in_words(error), fix=fix) from error
    layers = getattr(config.get_text_config(decoder=True), "num_hidden_layers", 0)
    if layers > len(checkpoint.tensors):  # making them would take for ever, before what is missing could be said
        reason = f"the checkpoint has only {len(checkpoint.tensors)} tensors"
        raise load_error(f"{path}: num_hidden_layers", value=str(layers), reason=reason, fix=_EXPORT_AGAIN)
    return config, model_class


def _in_words(error: Exception) -> str:
    """An error of a library in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    text = (" ".join(lines[:2]) if lines[0].endswith(":") else lines[0]).rstrip(".")
    return f"{type(error).__name__}: {text}" if isinstance(error, KeyError) else text


def _model_class(config: Any, options: LoadOptions, checkpoint: Checkpoint) -> type[PreTrainedModel]:
    if options.trust_remote_code and "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {}):
        from transformers.dynamic_module_utils import get_class_from_dynamic_module

        return get_class_from_dynamic_module(config.auto_map["AutoModelForCausalLM"], str(checkpoint.directory))
    mapping = AutoModelForCausalLM._model_mapping
    if type(config) not in mapping:
        raise load_error(
            f"{checkpoint.directory / 'config.json'}: model_type",
            value=config.model_type,
            reason="it is not a causal language model",
            fix="choose a decoder-only text model",
        )
    found: Any = mapping[type(config)]
    chosen: type[PreTrainedModel] = found[0] if isinstance(found, tuple) else found
    return chosen


def _max_model_len(options: LoadOptions, config: Any) -> int:
    known = getattr(config.get_text_config(decoder=True), "max_position_embeddings", None)
    if options.max_model_len is None:
        return known or 4096
    if known is not None and options.max_model_len > known:
        raise usage_error(
            "--max-model-len",
            value=str(options.max_model_len),
            reason=f"the model was made for {known} positions",
            fix=f"give at most {known}",
        )
    return options.max_model_len


def _tokenizer(options: LoadOptions) -> Any:
    directory = options.tokenizer_directory or options.directory
    try:
        return AutoTokenizer.from_pretrained(directory, trust_remote_code=options.trust_remote_code)
    except Exception as error:
        reason = f"no tokenizer could be loaded: {_in_words(error)}"
        raise load_error(str(directory), reason=reason, fix="add tokenizer.json to it") from error


class _CountedSlice:
    """A tensor of a file, not read yet, that counts its bytes when it is.

    One of another type than `dtype` is converted by whoever takes it: then its pages in memory are let go.
    """

    def __init__(
        self, source: Any, nbytes: int, count: Callable[[int], None], *, dtype: torch.dtype, files: MappedFiles
    ) -> None:
        self._source = source
        self._nbytes = nbytes
        self._count = count
        self._dtype = dtype
        self._files = files

    def __getitem__(self, index: Any) -> torch.Tensor:
        tensor: torch.Tensor = self._source[index]
        if tensor.dtype != self._dtype:
            self._files.let_go_after(tensor)
        self._count(self._nbytes)
        return tensor

    def get_shape(self) -> list[int]:
        return list(self._source.get_shape())

    def get_dtype(self) -> str:
        return str(self._source.get_dtype())


def _opened(file: Path) -> Any:
    try:
        return safe_open(file, framework="pt", device="cpu")
    except (SafetensorError, OSError) as error:
        raise load_error(str(file), reason=_in_words(error), fix="export or download the file again") from error


def _weights(
    checkpoint: Checkpoint,
    config: Any,
    model_class: type[PreTrainedModel],
    *,
    dtype: torch.dtype,
    device: torch.device,
    count: Callable[[int], None],
) -> PreTrainedModel:
    with ExitStack() as stack:
        handles = [stack.enter_context(_opened(file)) for file in checkpoint.files]
        mapped = MappedFiles()
        slices: dict[str, Any] = {
            name: _CountedSlice(
                handle.get_slice(name), checkpoint.tensors[name].nbytes, count, dtype=dtype, files=mapped
            )
            for handle in handles
            for name in handle.keys()  # noqa: SIM118  (not a dict)
        }
        try:
            loaded: Any = model_class.from_pretrained(
                None,
                config=config,
                state_dict=slices,
                dtype=dtype,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            )
        except Exception as error:
            path = str(checkpoint.directory / "config.json")
            reason = f"the model cannot be made from it: {_in_words(error)}"
            raise load_error(path, reason=reason, fix=_EXPORT_AGAIN) from error
    model: PreTrainedModel = loaded[0]
    _refuse_mismatch(checkpoint, loaded[1])
    model.to(device)  # type: ignore[arg-type]
    return model


def _refuse_mismatch(checkpoint: Checkpoint, report: dict[str, Any]) -> None:
    problems = []
    fix = _EXPORT_AGAIN
    for key, reason in (
        ("missing_keys", "the model needs tensors that the checkpoint does not have"),
        ("unexpected_keys", "the checkpoint has tensors that the model does not know"),
    ):
        names = sorted(report[key])
        if names:
            more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
            problems.append(
                Problem(path=str(checkpoint.directory), value=", ".join(names[:_NAMED]) + more, reason=reason, fix=fix)
            )
    for name, found, needed in sorted(report["mismatched_keys"])[:_NAMED]:
        reason = f"the checkpoint has shape {list(found)}, config.json needs {list(needed)}"
        problems.append(Problem(path=f"{checkpoint.directory}: {name}", reason=reason, fix=fix))
    for message in list(report["error_msgs"])[:_NAMED]:
        problems.append(Problem(path=str(checkpoint.directory), reason=str(message), fix=fix))
    if problems:
        raise StartError(tuple(problems), exit_code=EXIT_LOAD)


def _eos_ids(directory: Path, config: Any, tokenizer: Any) -> frozenset[int]:
    """The end tokens of generation_config.json, else of config.json, else of the tokenizer."""
    sources: list[Any] = []
    path = directory / "generation_config.json"
    if path.exists():
        try:
            sources.append(GenerationConfig.from_pretrained(directory).eos_token_id)
        except Exception as error:
            raise load_error(str(path), reason=_in_words(error), fix="correct or remove it") from error
    sources += [getattr(config, "eos_token_id", None), getattr(tokenizer, "eos_token_id", None)]
    for source in sources:
        if source is None:
            continue
        ids = source if isinstance(source, list | tuple) else [source]
        if not all(isinstance(one, int) for one in ids):
            reason = "end tokens are numbers"
            raise load_error(f"{path}: eos_token_id", value=repr(source), reason=reason, fix="correct or remove it")
        return frozenset(ids)
    return frozenset()


def _rope(config: Any) -> dict[str, Any]:
    """What decides the rotation of keys; both sides of a hand-off must agree on it."""
    text = config.get_text_config(decoder=True)
    parameters = getattr(text, "rope_parameters", None) or getattr(text, "rope_scaling", None) or {}
    return {"parameters": dict(parameters), "theta": getattr(text, "rope_theta", None)}
