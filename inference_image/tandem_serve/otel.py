"""Spans through OpenTelemetry's SDK, sent by OTLP over HTTP to where the standard variables say."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace

import aiohttp
from opentelemetry.context import Context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import Span, SpanKind, get_current_span, set_span_in_context, use_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.types import Scope

from tandem_edge import otel
from tandem_serve.engine.types import FinishReason, SequenceRequest, Update
from tandem_serve.spans import Answered, Spans

NAME = "tandem-serve"
_QUIET = frozenset({"/health", "/livez", "/metrics"})
_HANDOFFS = "/kv/"
_FAILED = frozenset({FinishReason.TIMEOUT, FinishReason.ERROR})


@dataclass
class _Generation:
    """All sequences of one request, and what its span is told of them at their end."""

    span: Span
    began: float
    open: int
    output_tokens: int = 0
    first_token: float | None = None
    reasons: list[str] = field(default_factory=list)

    def ended(self) -> None:
        """The last sequence has ended; the client may have gone before."""
        if not self.span.is_recording():
            return
        self.span.set_attributes(
            {"gen_ai.usage.output_tokens": self.output_tokens, "gen_ai.response.finish_reasons": self.reasons}
        )
        if self.first_token is not None:
            self.span.set_attribute("gen_ai.response.time_to_first_chunk", self.first_token - self.began)


@dataclass
class _Sequence:
    """One sequence: the span of what it does now, and under which name it fetches KV."""

    generation: _Generation
    context: Context
    kv_id: str | None
    phase: Span
    has_tokens: bool = False


class OtelSpans(Spans):
    """Makes spans of a provider."""

    def __init__(self, provider: TracerProvider, *, model: str, role: str) -> None:
        self._provider = provider
        self._model = model
        self._role = role
        self._tracer = provider.get_tracer("tandem_serve")
        self._propagator = TraceContextTextMapPropagator()
        self._sequences: dict[int, _Sequence] = {}
        self._pulls: dict[str, Context] = {}
        """The contexts of running hand-offs."""

    @classmethod
    def exporting(cls, *, model: str, role: str) -> OtelSpans:
        """Sends them, in batches and in a thread of its own."""
        return cls(otel.exporting(NAME, {"tandem.role": role}), model=model, role=role)

    @contextmanager
    def request(self, scope: Scope, *, request_id: str) -> Iterator[Answered]:
        """See `Spans`. Probes have none, and of requests between workers only those of a traced hand-off."""
        carrier = otel.carrier(scope["headers"])
        path: str = scope["path"]
        if path in _QUIET or (path.startswith(_HANDOFFS) and not carrier):
            yield lambda _route, _status: None
            return
        method = scope["method"]
        span = self._tracer.start_span(
            method,
            context=self._propagator.extract(carrier),
            kind=SpanKind.SERVER,
            attributes={"http.request.method": method, "tandem.request_id": request_id, "tandem.role": self._role},
        )

        def answered(route: str, status: int) -> None:
            span.update_name(f"{method} {route}")
            span.set_attributes({"http.route": route, "http.response.status_code": status})
            if route in otel.OPERATIONS:
                span.set_attribute("gen_ai.operation.name", otel.OPERATIONS[route])
            if status >= 500:
                otel.fail(span, str(status))

        with use_span(span, end_on_exit=True, record_exception=False, set_status_on_exception=False):
            yield answered

    def begin(self, requests: Iterable[SequenceRequest]) -> None:
        """See `Spans`."""
        span = get_current_span()
        if not span.is_recording():
            return
        queued = list(requests)
        sampling = queued[0].sampling
        # The same prompt may have several sequences.
        prompts = {request.prompt for request in queued}
        span.set_attributes(
            {
                "gen_ai.request.model": self._model,
                "gen_ai.request.max_tokens": sampling.max_tokens,
                "gen_ai.request.temperature": sampling.temperature,
                "gen_ai.request.top_p": sampling.top_p,
                "gen_ai.usage.input_tokens": sum(map(len, prompts)),
            }
        )
        generation = _Generation(span, began=time.monotonic(), open=len(queued))
        context = set_span_in_context(span)
        for request in queued:
            waiting = self._tracer.start_span("queue", context=context)
            kv_id = None if request.remote is None else request.remote.kv_id
            self._sequences[request.seq_id] = _Sequence(generation, context, kv_id, waiting)

    def on_update(self, update: Update) -> None:
        """See `Spans`."""
        sequence = self._sequences.get(update.seq_id)
        if sequence is None:
            return
        generation = sequence.generation
        if update.started:
            self._begin_prompt(sequence, pulls=update.pull_from is not None)
        if update.token_ids:
            generation.output_tokens += len(update.token_ids)
            if not sequence.has_tokens:
                sequence.has_tokens = True
                generation.first_token = generation.first_token or time.monotonic()
                if update.finish is None:
                    self._next(sequence, "decode")
        if update.finish is not None:
            del self._sequences[update.seq_id]
            self._forget_pull(sequence)
            if update.finish.reason in _FAILED:
                otel.fail(sequence.phase, str(update.finish.reason))
            sequence.phase.end()
            generation.reasons.append(str(update.finish.reason))
            generation.open -= 1
            if generation.open == 0:
                generation.ended()

    def of_pulls(self) -> list[aiohttp.TraceConfig]:
        """See `Spans`."""

        async def name_it(
            _session: aiohttp.ClientSession, _context: SimpleNamespace, params: aiohttp.TraceRequestStartParams
        ) -> None:
            context = self._pulls.get(params.url.path.removeprefix(_HANDOFFS))
            if context is not None and params.method == "GET":
                self._propagator.inject(params.headers, context)

        config = aiohttp.TraceConfig()
        config.on_request_start.append(name_it)
        return [config]

    def close(self) -> None:
        """See `Spans`."""
        otel.close(self._provider)

    def _begin_prompt(self, sequence: _Sequence, *, pulls: bool) -> None:
        self._next(sequence, "hand_off" if pulls else "prefill")
        if pulls and sequence.kv_id is not None:
            self._pulls.setdefault(sequence.kv_id, set_span_in_context(sequence.phase))

    def _next(self, sequence: _Sequence, name: str) -> None:
        self._forget_pull(sequence)
        sequence.phase.end()
        sequence.phase = self._tracer.start_span(name, context=sequence.context)

    def _forget_pull(self, sequence: _Sequence) -> None:
        if sequence.kv_id is not None:
            self._pulls.pop(sequence.kv_id, None)
