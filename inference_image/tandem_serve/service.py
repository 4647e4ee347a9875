"""The one object behind the routes: what is loaded, what is allowed, and the way into the engine."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

from tandem_edge.keys import ApiKeys, UnusableKeys
from tandem_serve.engine.client import EngineClient, Generation, QueueFullError
from tandem_serve.engine.grammar import GrammarCompiler
from tandem_serve.engine.text import TextCodec
from tandem_serve.engine.transfer.identity import KvIdentity, WorkerKey
from tandem_serve.engine.transfer.lease import KvSender, Lease, LeaseStore
from tandem_serve.engine.types import EngineStats, RemoteKv, SequenceRequest
from tandem_serve.http import errors
from tandem_serve.metrics import ServerMetrics
from tandem_serve.problems import usage_error
from tandem_serve.settings import Settings
from tandem_serve.spans import Spans
from tandem_serve.timings import Timings

T = TypeVar("T")
LONG_TEXTS_AT_ONCE = 2


class Status(StrEnum):
    """Where the process stands."""

    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"
    FAILED = "failed"
    """It cannot serve (any more) and ends by itself, or is ended by whoever watches it."""


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """What the routes tell about the loaded model."""

    model_type: str
    vocab_size: int
    device: str
    dtype: str
    parameter_count: int
    weight_bytes: int
    max_model_len: int
    kv_capacity_tokens: int
    digest: str
    prompts_beside: bool
    """Whether a second thread computes prompts beside running sequences."""


@dataclass(frozen=True, kw_only=True)
class Backend:
    """What exists once the model is loaded."""

    facts: ModelFacts
    codec: TextCodec
    client: EngineClient
    grammars: GrammarCompiler
    stats: EngineStats
    stuck_for: Callable[[], float]
    leases: LeaseStore
    kv_identity: KvIdentity
    kv_key: WorkerKey
    send_kv: Callable[[Lease, int, str], KvSender]
    """The bytes of a lease, from a token of the prompt, for who shows this token."""
    decline_kv: Callable[[Iterable[RemoteKv]], None]
    """Lets the prefill worker forget what it offers."""


@dataclass(frozen=True, kw_only=True)
class RefusedHandoff:
    """Why this decode worker cannot take KV of the prefill workers it hears of; `reason` is a word for metrics."""

    reason: str
    message: str


class Service:
    """State of the process. The event loop's thread is the only one that changes it."""

    def __init__(
        self,
        settings: Settings,
        metrics: ServerMetrics,
        *,
        spans: Spans | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = settings
        self.metrics = metrics
        self.spans = spans or Spans()
        self.clock = clock
        self.timings = Timings(metrics, self.spans, clock=clock)
        self.engine_id = uuid.uuid4().hex
        self.created = int(time.time())
        self.status = Status.LOADING
        self.failure = ""
        """Why, when the status is FAILED after the model was loaded."""
        self.keys = _api_keys(settings, clock)
        self.loading: Callable[[], Mapping[str, object]] = dict
        """What `/health` tells of how far loading is."""
        self.refused_handoff: RefusedHandoff | None = None
        """Of the last offer."""
        self._backend: Backend | None = None
        self._long_texts = asyncio.Semaphore(LONG_TEXTS_AT_ONCE)

    async def read_long(self, work: Callable[[], T]) -> T:
        """Runs `work` on a long text in a thread; few at a time, because it takes many times the memory of the text."""
        async with self._long_texts:
            return await asyncio.to_thread(work)

    def attach(self, backend: Backend) -> None:
        """The model is loaded: the server is ready unless it is already going down."""
        self._backend = backend
        self.metrics.follow(backend.stats, model=self.settings.served_name)
        if self.status is Status.LOADING:
            self.status = Status.READY

    @property
    def model_loaded(self) -> bool:
        """Whether the model is in memory."""
        return self._backend is not None

    @property
    def loaded(self) -> Backend:
        """The backend, also while draining. Raises a 503 before the model is loaded."""
        if self._backend is None:
            raise errors.not_ready("Model not loaded", code="model_loading")
        return self._backend

    @property
    def ready(self) -> Backend:
        """The backend, for new work. Raises a 503 while loading or draining."""
        if self.status is Status.DRAINING:
            raise errors.not_ready("The server is shutting down.", code="draining")
        if self.failure:
            raise errors.not_ready(self.failure, code="stuck")
        return self.loaded

    def fail(self, reason: str) -> None:
        """Nothing can be generated any more: whoever waits gets an error, and so does who comes."""
        self.status = Status.FAILED
        self.failure = reason
        self.loaded.client.fail_all(reason)

    def start(self, requests: list[SequenceRequest]) -> Generation:
        """Hands sequences to the engine. Raises a 429 when the queue is full."""
        try:
            generation = self.ready.client.start(requests)
        except QueueFullError:
            self.metrics.refused("queue_full")
            raise errors.queue_full(retry_after=1) from None
        self.timings.begin(generation.requests)
        return generation

    def full(self) -> errors.ApiError | None:
        """The 429 that `start` would raise for one more sequence."""
        if self._backend is None:
            return None
        try:
            self._backend.client.check_room(1)
        except QueueFullError:
            self.metrics.refused("queue_full")
            return errors.queue_full(retry_after=1)
        return None

    def deadline(self) -> float:
        """When a generation that arrives now must have ended, on the service's clock."""
        return self.clock() + self.settings.config.generation_timeout


def _api_keys(settings: Settings, clock: Callable[[], float]) -> ApiKeys | None:
    if settings.api_key_file is None:
        return None
    try:
        return ApiKeys(settings.api_key_file, clock=clock)
    except UnusableKeys as error:
        fix = "give a readable file with one key per line"
        raise usage_error("--api-key-file", value=error.place, reason=error.reason, fix=fix) from None
