"""Prometheus metrics of one server process, in a registry of their own."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from tandem_serve.engine.types import EngineStats


class _EngineCollector(Collector):
    """Reads the engine's figures when they are asked for, so that the engine never touches a metric."""

    def __init__(self) -> None:
        self.stats = EngineStats()

    def collect(self) -> Iterable[Metric]:
        """All families."""
        stats = self.stats
        usage = stats.kv_used_tokens / stats.kv_capacity_tokens if stats.kv_capacity_tokens else 0.0
        for name, text, value in (
            ("vllm:num_requests_running", "Sequences that hold a slot", stats.running),
            ("vllm:num_requests_waiting", "Sequences that wait for one", stats.waiting),
            ("vllm:kv_cache_usage_perc", "Share of the KV memory in use, 0 to 1", usage),
        ):
            yield GaugeMetricFamily(name, text, value=value)
        yield CounterMetricFamily("tandem_generated_tokens", "New tokens", value=stats.generated_tokens)
        yield CounterMetricFamily("tandem_engine_steps", "Forward passes", value=stats.steps)
        prompt = CounterMetricFamily(
            "tandem_prompt_tokens", "Prompt tokens by where their KV came from", labels=["source"]
        )
        prompt.add_metric(["computed"], stats.prompt_tokens_computed)
        prompt.add_metric(["transferred"], stats.prompt_tokens_transferred)
        prompt.add_metric(["reused"], stats.prompt_tokens_reused)
        yield prompt
        finished = CounterMetricFamily("tandem_sequences_finished", "Ended sequences by reason", labels=["reason"])
        for reason, count in list(stats.finished.items()):
            finished.add_metric([str(reason)], count)
        yield finished


class ServerMetrics:
    """All metrics of the server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._engine = _EngineCollector()
        self.registry.register(self._engine)
        self._requests = Counter(
            "tandem_requests_total", "Answered requests", ["path", "status"], registry=self.registry
        )
        self._refused = Counter("tandem_requests_refused_total", "Refused requests", ["reason"], registry=self.registry)
        self._kv_bytes = Counter(
            "tandem_kv_transfer_bytes_total", "KV bytes handed over", ["direction"], registry=self.registry
        )
        self._kv_tokens = Counter(
            "tandem_kv_transfer_tokens_total", "Tokens whose KV was handed over", ["direction"], registry=self.registry
        )
        self._kv_failures = Counter(
            "tandem_kv_transfer_failures_total", "Hand-offs that failed", ["reason"], registry=self.registry
        )
        self._fallbacks = Counter(
            "tandem_local_prefill_fallbacks_total",
            "Prompts that a decode worker prefilled itself",
            registry=self.registry,
        )
        for direction in ("sent", "received"):
            self._kv_bytes.labels(direction)
            self._kv_tokens.labels(direction)

    def follow(self, stats: EngineStats) -> None:
        """Reads the engine's figures from `stats` from now on."""
        self._engine.stats = stats

    def answered(self, path: str, status: int) -> None:
        """Counts an answer; `path` is a route, not what the client sent."""
        self._requests.labels(path, str(status)).inc()

    def refused(self, reason: str) -> None:
        """Counts a refusal."""
        self._refused.labels(reason).inc()

    def kv_moved(self, direction: str, *, tokens: int, nbytes: int) -> None:
        """Counts a hand-off; direction is sent or received."""
        self._kv_bytes.labels(direction).inc(nbytes)
        self._kv_tokens.labels(direction).inc(tokens)

    def kv_failed(self, reason: str) -> None:
        """Counts a failed hand-off."""
        self._kv_failures.labels(reason).inc()

    def fell_back(self) -> None:
        """Counts a prompt that had to be prefilled by a decode worker."""
        self._fallbacks.inc()

    def render(self) -> bytes:
        """The text format of Prometheus."""
        return generate_latest(self.registry)
