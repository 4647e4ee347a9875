"""Whether spans can be sent, and what is said when they cannot."""

from __future__ import annotations

import logging
import sys

import pytest

from tandem_edge.tracing import can_send

PLACE = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}


@pytest.mark.parametrize(
    "environment",
    [
        PLACE,
        {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "https://collector/v1/traces"},
        {**PLACE, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf"},
    ],
)
def test_a_named_collector_can_be_sent_to(environment, caplog):
    assert can_send(environment)
    assert caplog.text == ""


@pytest.mark.parametrize(
    "environment",
    [{}, {**PLACE, "OTEL_SDK_DISABLED": "true"}, {**PLACE, "OTEL_TRACES_EXPORTER": "none"}],
)
def test_without_a_collector_nothing_is_sent_and_nothing_said(environment, caplog):
    assert not can_send(environment)
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4318"}, "is not an address like http://collector:4318"),
        ({**PLACE, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "only http/protobuf is spoken here"),
        ({**PLACE, "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpc"}, "only http/protobuf is spoken here"),
    ],
)
def test_what_cannot_work_is_one_line_and_no_failure(environment, words, caplog):
    assert not can_send(environment)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert words in caplog.text


def test_a_missing_package_is_one_line_with_what_to_install(monkeypatch, caplog):
    monkeypatch.delitem(sys.modules, "tandem_edge.otel", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    assert not can_send(PLACE)
    assert len(caplog.records) == 1
    assert "install this project with its extra otel" in caplog.text
