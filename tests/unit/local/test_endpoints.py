"""The list of workers for the router: its form, and that a reader never sees half of it."""

import json

from tandem.gateway.discovery.file import read_fleet
from tandem.local.endpoints import EndpointsFile
from tandem.local.plan import make_plan
from tests.unit.local.objects import machine, worker_deployment


def workers():
    objects = [worker_deployment(role="prefill"), worker_deployment(role="decode", replicas=2)]
    return make_plan(objects, machine=machine()).workers


def test_the_router_reads_what_local_mode_writes(tmp_path):
    path = tmp_path / "endpoints.json"
    EndpointsFile(path, workers()).write(ready={"demo-decode-r1-1"})
    fleet = read_fleet(path)
    assert {(each.name, each.role, each.port, each.ready) for each in fleet.endpoints} == {
        ("demo-prefill-r1-0", "prefill", 9001, False),
        ("demo-decode-r1-0", "decode", 9002, False),
        ("demo-decode-r1-1", "decode", 9003, True),
    }


def test_the_file_is_replaced_as_a_whole_and_only_when_it_changes(tmp_path):
    path = tmp_path / "endpoints.json"
    file = EndpointsFile(path, workers())
    file.write(ready=())
    first = path.stat().st_ino
    with path.open() as reader:
        file.write(ready={"demo-prefill-r1-0"})
        assert not any(each["ready"] for each in json.load(reader)["endpoints"])  # the old one, whole
    second = path.stat().st_ino
    assert second != first
    file.write(ready={"demo-prefill-r1-0"})
    assert path.stat().st_ino == second
    assert [entry.name for entry in tmp_path.iterdir()] == ["endpoints.json"]
