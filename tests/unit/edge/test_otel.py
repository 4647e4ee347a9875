"""What spans say of the process that sends them, and how long its end waits for a collector."""

from __future__ import annotations

import socket
import threading
from collections.abc import Mapping

import pytest
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider

from tandem_edge import otel


def attributes() -> Mapping[str, object]:
    provider = otel.exporting("tandem-router", {"tandem.deployment": "chat"})
    provider.shutdown()
    return provider.resource.attributes


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES"):
        monkeypatch.delenv(name, raising=False)


def test_a_process_is_named_by_its_service_its_host_and_its_own_attributes():
    told = attributes()
    assert (told["service.name"], told["tandem.deployment"]) == ("tandem-router", "chat")
    assert told["host.name"] == socket.gethostname()


def test_names_of_the_environment_come_first(monkeypatch):
    monkeypatch.setenv("OTEL_SERVICE_NAME", "front")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "host.name=one,team=a")
    told = attributes()
    assert (told["service.name"], told["host.name"], told["team"]) == ("front", "one", "a")


def test_headers_name_the_span_above_and_nothing_else():
    headers = [(b"traceparent", b"00-1"), (b"tracestate", b"a=\xe9"), (b"authorization", b"Bearer sk-one")]
    assert otel.carrier(headers) == {"traceparent": "00-1", "tracestate": "a=é"}


def test_a_collector_that_does_not_answer_is_left(monkeypatch):
    answered, asked = threading.Event(), threading.Event()

    class Silent(SpanProcessor):
        def shutdown(self) -> None:
            asked.set()
            answered.wait()

    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(Silent())
    monkeypatch.setattr(otel, "CLOSE_SECONDS", 0.01)
    otel.close(provider)
    try:
        assert asked.wait(90)
    finally:
        answered.set()
