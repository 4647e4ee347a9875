"""Prometheus metrics of one server process, in a registry of their own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from tandem_serve.engine.types import EngineStats, FinishReason

# From a step of a small model on a GPU to a token of a large one on a busy CPU.
_TOKEN_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2, 5, 10)
_WAIT_SECONDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 60, 120, 300, 600)
_BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


def _histogram(name: str, text: str, sizes: Mapping[int, int]) -> HistogramMetricFamily:
    """Of counts by size."""
    buckets = [(floatToGoString(bound), sum(n for size, n in sizes.items() if size <= bound)) for bound in _BATCH_SIZES]
    buckets.append(("+Inf", sum(sizes.values())))
    return HistogramMetricFamily(name, text, buckets=buckets, sum_value=sum(size * n for size, n in sizes.items()))


class _EngineCollector(Collector):
    """Reads the engine's figures when they are asked for, so that the engine never touches a metric."""

    def __init__(self) -> None:
        self.stats = EngineStats()
        self.model = ""

    def collect(self) -> Iterable[Metric]:
        """All families."""
        yield from self._of_gateways()
        yield from self._own()

    def _of_gateways(self) -> Iterable[Metric]:
        """What inference gateways choose a worker by, under the names and labels they read."""
        stats = self.stats
        usage = stats.kv_used_tokens / stats.kv_capacity_tokens if stats.kv_capacity_tokens else 0.0
        for name, text, value in (
            ("vllm:num_requests_running", "Sequences that hold a slot", stats.running),
            ("vllm:num_requests_waiting", "Sequences that wait for one", stats.waiting),
            ("vllm:kv_cache_usage_perc", "Share of the KV memory in use, 0 to 1", usage),
        ):
            gauge = GaugeMetricFamily(name, text, labels=["engine", "model_name"])
            gauge.add_metric(["0", self.model], value)
            yield gauge
        cache = GaugeMetricFamily(
            "vllm:cache_config_info", "Size of the KV memory", labels=["block_size", "engine", "num_gpu_blocks"]
        )
        blocks = stats.kv_capacity_tokens // stats.kv_block_tokens
        cache.add_metric([str(stats.kv_block_tokens), "0", str(blocks)], 1)
        yield cache

    def _own(self) -> Iterable[Metric]:
        stats = self.stats
        yield GaugeMetricFamily("tandem_kv_used_tokens", "Tokens of KV memory in use", value=stats.kv_used_tokens)
        yield GaugeMetricFamily(
            "tandem_kv_capacity_tokens", "Tokens that the KV memory holds", value=stats.kv_capacity_tokens
        )
        yield _histogram("tandem_batch_size", "Sequences of a forward pass", dict(stats.batch_sizes))
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
        for reason in FinishReason:
            finished.add_metric([str(reason)], stats.finished.get(reason, 0))
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
        self._recomputed = Counter(
            "tandem_kv_recomputed_tokens_total",
            "Prompt tokens whose KV did not come from a prefill worker, by reason",
            ["reason"],
            registry=self.registry,
        )
        self._of_time()
        self._refused.labels("queue_full")
        for direction in ("sent", "received"):
            self._kv_bytes.labels(direction)
            self._kv_tokens.labels(direction)

    def _of_time(self) -> None:
        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(name, text, buckets=buckets, registry=self.registry)

        self.queue_seconds = histogram("tandem_queue_seconds", "From arrival to a slot", _WAIT_SECONDS)
        self.first_token_seconds = histogram(
            "tandem_time_to_first_token_seconds", "From arrival to the first token", _WAIT_SECONDS
        )
        self.next_token_seconds = histogram(
            "tandem_time_per_output_token_seconds", "From one token to the next", _TOKEN_SECONDS
        )
        self.request_seconds = histogram("tandem_sequence_seconds", "From arrival to the end", _WAIT_SECONDS)

    def follow(self, stats: EngineStats, *, model: str) -> None:
        """Reads the engine's figures from `stats` from now on; `model` is the name that clients use."""
        self._engine.stats = stats
        self._engine.model = model

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

    def fell_back(self, reason: str, *, tokens: int) -> None:
        """Counts a prompt of which a decode worker had to compute so many tokens itself."""
        self._fallbacks.inc()
        self._recomputed.labels(reason).inc(tokens)

    def render(self) -> bytes:
        """The text format of Prometheus."""
        return generate_latest(self.registry)
