"""The audit log as tests read it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.cluster.audit import BLOCK_BYTES, complete_size, read_events


def entry(verb: str, **changes: Any) -> str:
    base = {
        "stage": "ResponseComplete",
        "verb": verb,
        "user": {"username": "system:serviceaccount:a:b"},
        "userAgent": "tandem",
        "objectRef": {"apiGroup": "apps", "resource": "deployments", "namespace": "a", "name": "x"},
        "responseStatus": {"code": 200},
    }
    return json.dumps({**base, **changes}) + "\n"


def test_events_tell_who_did_what(tmp_path: Path) -> None:
    log = tmp_path / "audit.log"
    log.write_text(entry("patch") + entry("watch", stage="ResponseStarted", responseStatus={}))
    patch, watch = read_events(log)
    assert (patch.user, patch.group, patch.resource, patch.name) == (
        "system:serviceaccount:a:b",
        "apps",
        "deployments",
        "x",
    )
    assert (patch.is_write, patch.status) == (True, 200)
    assert (watch.is_write, watch.status) == (False, 0)


def test_requests_for_no_object_are_read_too(tmp_path: Path) -> None:
    log = tmp_path / "audit.log"
    line = json.loads(entry("get"))
    del line["objectRef"]
    log.write_text(json.dumps(line) + "\n")
    [event] = read_events(log)
    assert (event.resource, event.namespace) == ("", "")


def test_only_what_came_after_the_offset_is_read(tmp_path: Path) -> None:
    log = tmp_path / "audit.log"
    log.write_text(entry("get"))
    offset = log.stat().st_size
    with log.open("a") as handle:
        handle.write(entry("delete"))
    assert [event.verb for event in read_events(log, offset=offset)] == ["delete"]


def test_line_that_is_being_written_is_left_out(tmp_path: Path) -> None:
    log = tmp_path / "audit.log"
    log.write_text(entry("get") + entry("delete")[:20])
    assert [event.verb for event in read_events(log)] == ["get"]


def test_a_place_in_the_log_is_never_inside_a_line(tmp_path: Path) -> None:
    log = tmp_path / "audit.log"
    whole = entry("patch")
    log.write_text(whole + entry("update")[:-20])
    assert complete_size(log) == len(whole)
    log.write_text("")
    assert complete_size(log) == 0


def test_a_last_line_longer_than_what_is_read_at_once_is_passed_over(tmp_path: Path) -> None:
    log = tmp_path / "audit.log"
    whole = entry("patch")
    log.write_text(whole + "x" * (2 * BLOCK_BYTES + 5))
    assert complete_size(log) == len(whole)
