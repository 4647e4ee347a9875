"""Workers from a file: what it says, when it changes, and what happens when it is broken."""

from __future__ import annotations

import asyncio
import json
import logging
import os

import pytest

from tandem.api.problems import Refused
from tandem.gateway.discovery.file import FileSource, read_fleet
from tandem.gateway.fleet import Endpoint, Fleet, FleetView, Role

ENTRY = {"name": "p-0", "address": "127.0.0.1", "port": 9001, "role": "prefill", "revision": "abc", "ready": True}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "endpoints.json"


def write(path, *entries):
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps({"endpoints": entries}))
    fresh.replace(path)


@pytest.fixture
def source(path):
    view = FleetView()
    failures = []

    made = FileSource(path, view, on_failure=lambda: failures.append(1), poll_seconds=1)
    return made, view, failures


def test_a_file_becomes_a_fleet(path):
    write(path, ENTRY, {**ENTRY, "name": "d-0", "address": "::1", "role": "decode", "ready": False})
    fleet = read_fleet(path)
    assert fleet == Fleet.of(
        [
            Endpoint("p-0", "127.0.0.1", 9001, Role.PREFILL, "abc", True),
            Endpoint("d-0", "::1", 9001, Role.DECODE, "abc", False),
        ]
    )
    assert {endpoint.url for endpoint in fleet.endpoints} == {"http://127.0.0.1:9001", "http://[::1]:9001"}


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("", "endpoints.json:1:1: is not JSON"),
        ('{"endpoints": [', "endpoints.json:1:16: is not JSON"),
        ("[]", "is not an endpoints file"),
        ('{"endpoints": {}}', "is not an endpoints file"),
        ('{"endpoints": [], "more": 1}', "is not an endpoints file"),
        ('{"endpoints": [3]}', "endpoints[0]: is not an object"),
        *(
            (json.dumps({"endpoints": [{**ENTRY, **change}]}), f"endpoints[0].{where}")
            for change, where in [
                ({"port": "9001"}, "port: is not a whole number"),
                ({"port": True}, "port: is not a whole number"),
                ({"port": 0}, "port: is not a port"),
                ({"role": "both"}, "role: is not a role"),
                ({"ready": "yes"}, "ready: is not true or false"),
                ({"address": ""}, "address: is empty"),
                ({"colour": "red"}, "colour: is not known"),
            ]
        ),
        *(
            (
                json.dumps({"endpoints": [{k: v for k, v in ENTRY.items() if k != key}]}),
                f"endpoints[0].{key}: is missing",
            )
            for key in ENTRY
        ),
        (json.dumps({"endpoints": [ENTRY, ENTRY]}), "endpoints[1].name: is there twice"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_with_the_place(path, text, where):
    path.write_text(text)
    with pytest.raises(Refused) as refused:
        read_fleet(path)
    assert where in str(refused.value)


def test_changes_are_seen_and_a_broken_file_keeps_the_last_good_list(path, source, caplog):
    made, view, failures = source
    caplog.set_level(logging.ERROR)
    made.look()
    assert not view.synced
    assert "No such file" in view.trouble
    write(path, ENTRY)
    made.look()
    assert view.synced
    assert view.trouble is None
    good = view.fleet
    path.write_text("{")
    for _ in range(3):
        made.look()
    assert view.fleet is good
    assert "is not JSON" in view.trouble
    assert [("endpoints.json:1:2" in record.getMessage()) for record in caplog.records] == [False, True]
    path.unlink()
    made.look()
    assert view.fleet is good
    write(path, {**ENTRY, "ready": False})
    made.look()
    assert [endpoint.ready for endpoint in view.fleet.endpoints] == [False]
    assert view.trouble is None
    assert len(failures) == 3


def test_a_replacement_of_equal_size_and_time_is_seen(path, source):
    made, view, _ = source
    write(path, ENTRY)
    made.look()
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    write(path, {**ENTRY, "port": 9002})
    os.utime(path, ns=times)
    made.look()
    assert view.fleet.endpoints[0].port == 9002


async def test_the_file_is_looked_at_again_and_again(path):
    view = FleetView()
    pauses = []

    async def sleep(seconds):
        pauses.append(seconds)
        write(path, *[{**ENTRY, "name": f"p-{index}"} for index in range(len(pauses))])
        if len(pauses) == 4:
            raise asyncio.CancelledError

    source = FileSource(path, view, on_failure=lambda: None, poll_seconds=0.25, sleep=sleep)
    with pytest.raises(asyncio.CancelledError):
        await source.run()
    assert pauses == [0.25] * 4
    assert len(view.fleet.endpoints) == 3


def test_a_prefill_worker_may_have_a_bootstrap_port_of_its_own(tmp_path):
    path = tmp_path / "endpoints.json"
    entry = {"name": "p", "address": "127.0.0.1", "port": 1, "role": "prefill", "revision": "r", "ready": True}
    path.write_text(json.dumps({"endpoints": [{**entry, "bootstrap_port": 8999}, {**entry, "name": "q"}]}))

    assert [endpoint.bootstrap_port for endpoint in read_fleet(path).endpoints] == [8999, None]


@pytest.mark.parametrize("value", ["8999", True, 0, 65536, None])
def test_a_bootstrap_port_that_is_none_is_refused(tmp_path, value):
    path = tmp_path / "endpoints.json"
    entry = {"name": "p", "address": "127.0.0.1", "port": 1, "role": "prefill", "revision": "r", "ready": True}
    path.write_text(json.dumps({"endpoints": [{**entry, "bootstrap_port": value}]}))

    with pytest.raises(Refused, match=r"endpoints\[0\]\.bootstrap_port"):
        read_fleet(path)
