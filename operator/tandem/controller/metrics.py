"""What the operator counts."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """The operator's metrics in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._reconciles = Counter(
            "tandem_reconciles", "Reconciles by kind and result.", ["kind", "result"], registry=self.registry
        )
        self._seconds = Histogram(
            "tandem_reconcile_seconds", "Duration of reconciles.", ["kind"], buckets=SECONDS, registry=self.registry
        )
        self._requests = Counter(
            "tandem_api_requests",
            "Requests to the API server by verb, kind and HTTP status (0: no answer).",
            ["verb", "kind", "code"],
            registry=self.registry,
        )
        self._request_seconds = Histogram(
            "tandem_api_request_seconds",
            "Duration of requests to the API server.",
            ["verb"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self._leading = Gauge("tandem_leading", "1 while this process is the one that acts.", registry=self.registry)

    def reconciled(self, kind: str, result: str, seconds: float) -> None:
        """Counts one reconcile; results are ok, failed and error (a bug)."""
        self._reconciles.labels(kind, result).inc()
        self._seconds.labels(kind).observe(seconds)

    def requested(self, verb: str, kind: str, status: int, seconds: float) -> None:
        """Counts one request to the API server."""
        self._requests.labels(verb, kind, str(status)).inc()
        self._request_seconds.labels(verb).observe(seconds)

    def leads(self, is_leading: bool) -> None:
        """Says whether this process acts."""
        self._leading.set(1 if is_leading else 0)

    def read_from(
        self, *, depth: Callable[[], float], oldest: Callable[[], float], objects: Callable[[], float]
    ) -> None:
        """Reads the queue and the cache whenever metrics are asked for."""
        for name, text, read in (
            ("tandem_queue_depth", "Keys that wait for work.", depth),
            ("tandem_queue_oldest_seconds", "Age of the key that waits longest.", oldest),
            ("tandem_cached_objects", "Objects in the cache.", objects),
        ):
            Gauge(name, text, registry=self.registry).set_function(read)

    def text(self) -> bytes:
        """All metrics in the Prometheus text format."""
        return generate_latest(self.registry)
