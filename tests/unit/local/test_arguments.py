"""Command lines and variables of a container, rewritten for this machine."""

from pathlib import Path

import pytest

from tandem.local.arguments import PortMap, follow_endpoints_file, localize_arguments, localize_environment
from tandem.local.mounts import Mounts

MOUNTS = Mounts({"/models": Path("/data/m"), "/models/special": Path("/data/s"), "/etc/tandem": Path("/run/config")})


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("/models", "/data/m"),
        ("/models/qwen", "/data/m/qwen"),
        ("/models/special/x", "/data/s/x"),
        ("/models-other", "/models-other"),
        ("--model=/models/qwen", "--model=/data/m/qwen"),
        ("see /models", "see /models"),
        ("x/models", "x/models"),
        ("/etc/tandem/config.yml", "/run/config/config.yml"),
    ],
)
def test_paths_below_a_mount_become_paths_of_this_machine(given, expected):
    assert MOUNTS.rewrite(given) == expected


def test_a_replaced_path_is_not_replaced_again():
    mounts = Mounts({"/a": Path("/b"), "/b": Path("/c")})
    assert mounts.rewrite("/a/x") == "/b/x"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["--port", "8000"], ["--port", "9001"]),
        (["--port=8000"], ["--port=9001"]),
        (["--side-channel-port", "5600"], ["--side-channel-port", "9002"]),
        (["--port", "8001"], ["--port", "8001"]),
        (["--max-tokens", "8000"], ["--max-tokens", "8000"]),
        (["--host", "0.0.0.0"], ["--host", "127.0.0.1"]),
        (["--host=::"], ["--host=127.0.0.1"]),
        (["--host", "10.0.0.1"], ["--host", "10.0.0.1"]),
        (["--model", "/models/q"], ["--model", "/data/m/q"]),
    ],
)
def test_ports_hosts_and_paths_of_arguments_are_rewritten(given, expected):
    assert list(localize_arguments(given, mounts=MOUNTS, ports=PortMap({8000: 9001, 5600: 9002}))) == expected


def test_variables_that_end_in_port_are_rewritten_and_others_are_not():
    given = {"SIDE_CHANNEL_PORT": "5600", "LIMIT": "5600", "CONFIG": "/etc/tandem/config.yml"}
    assert localize_environment(given, mounts=MOUNTS, ports=PortMap({5600: 9002})) == {
        "SIDE_CHANNEL_PORT": "9002",
        "LIMIT": "5600",
        "CONFIG": "/run/config/config.yml",
    }


def test_a_port_counts_as_moved_only_when_the_command_names_it():
    ports = PortMap({8000: 9001, 5600: 9002})
    localize_arguments(["--port", "8000"], mounts=MOUNTS, ports=ports)
    assert ports.moved == {8000}


def test_a_router_reads_a_file_where_it_would_watch_a_namespace_and_does_not_wait_at_its_end():
    given = ["tandem", "router", "--namespace", "ml", "--drain-seconds", "5", "--port", "1"]
    assert follow_endpoints_file(given, "/run/e.json") == (
        *("tandem", "router", "--endpoints-file", "/run/e.json", "--drain-seconds", "0", "--port", "1"),
    )
