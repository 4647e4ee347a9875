"""Puts a loaded model, its engine thread and the hand-off together. Imports torch: only the loading thread does so."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from tandem_serve.engine import decode_graphs
from tandem_serve.engine import device as devices
from tandem_serve.engine.beside import Beside, BesideThread
from tandem_serve.engine.client import EngineClient
from tandem_serve.engine.core import EngineCore
from tandem_serve.engine.cuda_recorder import recorder_for
from tandem_serve.engine.decode_graphs import Recorder
from tandem_serve.engine.grammar import GrammarCompiler
from tandem_serve.engine.kv_cache import KvLayout, KvMemory
from tandem_serve.engine.loader import LoadedModel, LoadOptions, load
from tandem_serve.engine.progress import LoadProgress
from tandem_serve.engine.runner import Runner
from tandem_serve.engine.scheduler import SchedulerLimits
from tandem_serve.engine.text import TextCodec
from tandem_serve.engine.thread import EngineThread
from tandem_serve.engine.traced import trace
from tandem_serve.engine.transfer import wire
from tandem_serve.engine.transfer.fetch import Source
from tandem_serve.engine.transfer.identity import WorkerKey
from tandem_serve.engine.transfer.lease import LeaseStore
from tandem_serve.engine.transfer.pull import KvPuller
from tandem_serve.engine.types import SequenceRequest, Update
from tandem_serve.problems import usage_error
from tandem_serve.service import Backend, ModelFacts, Service
from tandem_serve.settings import Settings

log = logging.getLogger(__name__)
_MEMORY_SHARE = 0.4  # of the memory that is free after loading: KV pool when no size is given
_CUDA_MEMORY_SHARE = 0.85


@dataclass(frozen=True, kw_only=True)
class Core:
    """A loaded model with queue, KV memory and tokenizer, without a thread."""

    model: LoadedModel
    engine: EngineCore
    codec: TextCodec
    facts: ModelFacts


@dataclass(frozen=True, kw_only=True)
class Engine:
    """A model that generates in a thread of its own."""

    core: Core
    thread: EngineThread


def start_engine(
    settings: Settings, directory: Path, progress: LoadProgress, *, sink: Callable[[list[Update]], None]
) -> Engine:
    """Loads the model and starts its thread. Raises `StartError`."""
    model = load(load_options(settings, directory), progress)
    with progress.step("ready"):
        recorder = recorder_for(model.device) if settings.record_steps else None
        # A worker that only prefills gives hardly any sequence a second token.
        traced = settings.record_steps and model.device.type == "cpu" and settings.role != "prefill"
        beside = None if model.beside is None else (BesideThread(), model.beside)
        core = build_core(settings, model, recorder=recorder, traced=traced, beside=beside)
        thread = EngineThread(core.engine, sink=sink, clock=time.monotonic)
        thread.start()
    return Engine(core=core, thread=thread)


def load_options(settings: Settings, directory: Path) -> LoadOptions:
    """What the settings say about loading."""
    return LoadOptions(
        directory=directory,
        tokenizer_directory=_tokenizer_directory(settings, directory),
        dtype=settings.dtype,
        quantization=settings.quantization,
        max_model_len=settings.max_model_len,
        trust_remote_code=settings.trust_remote_code,
    )


def build_core(
    settings: Settings,
    model: LoadedModel,
    *,
    clock: Callable[[], float] = time.monotonic,
    recorder: Recorder | None = None,
    traced: bool = False,
    beside: tuple[Beside, Runner] | None = None,
) -> Core:
    """An engine for a loaded model, whose decode steps are recorded if there is a `recorder`, or `traced`.

    `beside`: see `EngineCore`. Raises `StartError` when there is no memory for KV.
    """
    memory, runner = _memory_and_runner(settings, model, recorder)
    if traced:
        runner = trace(model.runner, memory)
    codec = TextCodec(model.tokenizer, vocab_size=model.vocab_size)
    engine = EngineCore(
        runner=runner,
        memory=memory,
        limits=SchedulerLimits(
            max_running=settings.max_num_seqs,
            token_budget=max(settings.max_num_batched_tokens, settings.max_num_seqs),
            prefix_reuse=settings.prefix_reuse,
        ),
        decode=codec.decoder(),
        decode_special=codec.decoder(skip_special=False),
        eos_ids=model.eos_ids,
        clock=clock,
        beside=beside,
    )
    facts = ModelFacts(
        model_type=model.model_type,
        vocab_size=model.vocab_size,
        device=str(model.device),
        dtype=str(model.layout.dtype).removeprefix("torch."),
        parameter_count=model.parameter_count,
        weight_bytes=model.weight_bytes,
        max_model_len=model.max_model_len,
        kv_capacity_tokens=engine.stats.kv_capacity_tokens,
        digest=model.digest,
        prompts_beside=beside is not None,
    )
    return Core(model=model, engine=engine, codec=codec, facts=facts)


def _tokenizer_directory(settings: Settings, directory: Path) -> Path | None:
    base = settings.config.base_model
    has_own = any((directory / name).exists() for name in ("tokenizer.json", "tokenizer_config.json"))
    if has_own or base is None or not Path(base).is_dir():
        return None
    return Path(base)


def _memory_and_runner(settings: Settings, model: LoadedModel, recorder: Recorder | None) -> tuple[KvMemory, Runner]:
    """The KV memory, beside what recorded steps take, and the runner on it."""
    sizes = decode_graphs.shapes(max_sequences=settings.max_num_seqs, max_tokens=model.max_model_len)
    taken = None
    if recorder is not None:
        taken = decode_graphs.bytes_for(model.runner, model.layout, recorder, sizes)
    capacity = kv_capacity(settings, model.layout, model.max_model_len, taken=taken or 0)
    memory = KvMemory(model.layout, capacity_tokens=capacity)
    if recorder is None or taken is None:
        return memory, model.runner
    return memory, decode_graphs.record(model.runner, memory, recorder, sizes)


def kv_capacity(settings: Settings, layout: KvLayout, max_model_len: int, *, taken: int = 0) -> int:
    """Tokens of the KV pool: as told, else what all running sequences may need, within the free memory.

    `taken`: bytes of the free memory that something else will need.
    """
    if settings.kv_cache_tokens is not None:
        return settings.kv_cache_tokens
    wanted = settings.max_num_seqs * max_model_len
    if layout.device.type == "cuda":
        import torch

        free = int((torch.cuda.mem_get_info(layout.device)[0] - taken) * _CUDA_MEMORY_SHARE)
    else:
        free = int((devices.memory_available() - taken) * _MEMORY_SHARE)
    affordable = free // layout.bytes_per_token
    if affordable < 16:
        raise usage_error(
            "--kv-cache-tokens",
            reason=f"after loading there is memory for {affordable} tokens of KV only",
            fix="give the container more memory",
        )
    return min(wanted, affordable)


@dataclass(frozen=True, kw_only=True)
class Running:
    """A connected engine and what must be closed at the end."""

    backend: Backend
    engine: EngineThread
    puller: KvPuller


def connect(engine: Engine, service: Service, session: aiohttp.ClientSession) -> Running:
    """Joins the engine with the service, in the service's event loop."""
    settings, thread, layout = service.settings, engine.thread, engine.core.model.layout
    who = wire.identity(layout, model_digest=engine.core.model.digest, rope=engine.core.model.rope)
    leases = LeaseStore(
        seconds=settings.lease_seconds, clock=service.clock, release=thread.release, cancel=thread.cancel
    )
    source = Source(
        session, who=who, layout=layout, timeout=settings.pull_timeout, stall_seconds=settings.pull_stall_seconds
    )
    puller = KvPuller(source=source, engine=thread, metrics=service.metrics)

    def on_start(request: SequenceRequest) -> None:
        puller.on_start(request)
        leases.on_start(request)

    def on_update(request: SequenceRequest, update: Update) -> None:
        service.timings.on_update(update)
        puller.on_update(request, update)
        leases.on_update(update)

    backend = Backend(
        facts=engine.core.facts,
        codec=engine.core.codec,
        client=EngineClient(
            thread,
            max_running=settings.max_num_seqs,
            max_queue=settings.config.max_queue,
            on_start=on_start,
            on_update=on_update,
        ),
        grammars=GrammarCompiler(
            engine.core.model.tokenizer,
            vocab_size=engine.core.facts.vocab_size,
            eos_ids=engine.core.model.eos_ids,
        ),
        stats=thread.stats,
        stuck_for=thread.stuck_for,
        leases=leases,
        kv_identity=who,
        kv_key=WorkerKey(),
        decline_kv=puller.decline,
        send_kv=lambda lease, first, token: wire.KvMessage(lease, first=first, who=who, layout=layout, token=token),
    )
    return Running(backend=backend, engine=thread, puller=puller)
