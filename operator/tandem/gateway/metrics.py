"""What the router counts, in a registry of its own."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, PlatformCollector, ProcessCollector
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from tandem.gateway.fleet import Endpoint, Fleet, FleetView
from tandem.gateway.protocol import BadHandoff
from tandem.gateway.targets import Targets

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640)


class Metrics:
    """The router's counters; `text` renders them for Prometheus."""

    def __init__(self, view: FleetView, targets: Targets) -> None:
        registry = CollectorRegistry()
        self._registry = registry
        self._requests = Counter(
            "tandem_router_requests", "Requests by route and outcome", ["route", "outcome"], registry=registry
        )
        self._seconds = Histogram(
            "tandem_router_request_seconds",
            "Time from the request to the end of its answer",
            ["route"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._first_event = Histogram(
            "tandem_router_time_to_first_token_seconds",
            "Time from the request to the first event of its stream",
            ["route"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._retries = Counter(
            "tandem_router_retries", "Further attempts by what made them necessary", ["reason"], registry=registry
        )
        self._attempts = Counter(
            "tandem_router_attempts", "Requests sent to a worker by outcome", ["target", "role", "outcome"],
            registry=registry,
        )  # fmt: skip
        self._pairs = Counter(
            "tandem_router_pairs", "Hand-offs from a prefill to a decode worker", ["revision"], registry=registry
        )
        self._local_prefills = Counter(
            "tandem_router_local_prefills",
            "Requests whose prompt decode was asked to compute itself",
            ["reason"],
            registry=registry,
        )
        self._bad_handoffs = Counter(
            "tandem_router_bad_handoffs", "Unusable kv_transfer_params", ["target", "key"], registry=registry
        )
        self._list_failures = Counter(
            "tandem_router_discovery_failures", "Failed reads of the worker list", registry=registry
        )
        registry.register(_State(view, targets))
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        self._named: set[str] = set()
        view.subscribe(self._forget_gone)

    def text(self) -> bytes:
        """All metrics in Prometheus' text form."""
        return generate_latest(self._registry)

    def finished(self, *, route: str, outcome: str, seconds: float, first_event: float | None) -> None:
        """A request is over; `first_event` is the time to a stream's first event."""
        self._requests.labels(route, outcome).inc()
        self._seconds.labels(route).observe(seconds)
        if first_event is not None:
            self._first_event.labels(route).observe(first_event)

    def retried(self, reason: str) -> None:
        """Another attempt follows."""
        self._retries.labels(reason).inc()

    def attempted(self, endpoint: Endpoint, outcome: str) -> None:
        """A leg ended."""
        self._named.add(endpoint.name)
        self._attempts.labels(endpoint.name, endpoint.role, outcome).inc()

    def paired(self, revision: str) -> None:
        """A hand-off was accepted by decode."""
        self._pairs.labels(revision).inc()

    def local_prefill(self, reason: str) -> None:
        """Decode was asked to compute the prompt."""
        self._local_prefills.labels(reason).inc()

    def bad_handoff(self, endpoint: Endpoint, problem: BadHandoff) -> None:
        """Prefill's parameters were refused."""
        self._bad_handoffs.labels(endpoint.name, problem.key or "-").inc()

    def list_failed(self) -> None:
        """The worker list could not be read."""
        self._list_failures.inc()

    def _forget_gone(self, _before: Fleet, after: Fleet) -> None:
        """Series of workers that are gone would pile up over the months a router runs."""
        gone = self._named - {endpoint.name for endpoint in after.endpoints}
        for name in gone:
            self._attempts.remove_by_labels({"target": name})
            self._bad_handoffs.remove_by_labels({"target": name})
        self._named -= gone


class _State(Collector):
    """Gauges read at scrape time from where the facts are, so that requests do not pay for them."""

    def __init__(self, view: FleetView, targets: Targets) -> None:
        self._view = view
        self._targets = targets

    def collect(self) -> Iterator[Metric]:
        endpoints = GaugeMetricFamily(
            "tandem_router_endpoints", "Workers by role and revision", labels=["role", "revision", "state"]
        )
        for count in self._view.fleet.counts:
            endpoints.add_metric([count.role, count.revision, "known"], count.known)
            endpoints.add_metric([count.role, count.revision, "ready"], count.ready)
        yield endpoints
        in_flight = GaugeMetricFamily(
            "tandem_router_in_flight", "Requests under way at a worker", labels=["target", "role"]
        )
        resting = GaugeMetricFamily(
            "tandem_router_resting", "1 while a worker that could not be reached rests", labels=["target", "role"]
        )
        for endpoint in self._view.fleet.endpoints:
            labels = [endpoint.name, endpoint.role]
            in_flight.add_metric(labels, self._targets.in_flight.get(endpoint.identity, 0))
            resting.add_metric(labels, endpoint.identity in self._targets.circuits.resting)
        yield in_flight
        yield resting
        yield GaugeMetricFamily(
            "tandem_router_synced", "1 when the worker list has been read", value=float(self._view.synced)
        )
        yield GaugeMetricFamily(
            "tandem_router_list_current", "1 while the worker list is being followed",
            value=float(self._view.synced and self._view.trouble is None),
        )  # fmt: skip
