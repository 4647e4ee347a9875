"""An engine's own parser takes what is rendered for its version.

It runs where the engine is: `TANDEM_VLLM_PYTHON` or `TANDEM_SGLANG_PYTHON` names an interpreter that can import it, and
without them this interpreter is asked. A parser needs no accelerator.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from tandem.api.problems import Refused
from tandem.manifests import Cluster
from tandem.rendering.library import Library, load_library
from tandem.rendering.pipeline import render
from tests.golden import CASES, built, deployment_of
from tests.unit.rendering.test_flags import accepted, requests

pytestmark = pytest.mark.integration
SCRIPT = Path(__file__).with_name("engine_parser.py")
BACKENDS = ("vllm", "sglang")
# What LeaderWorkerSet and the kubelet put in.
VARIABLES = {"$(LWS_GROUP_SIZE)": "2", "$(LWS_WORKER_INDEX)": "1", "$(LWS_LEADER_ADDRESS)": "leader", "$$": "$"}


UNKNOWN = ["--no-such-flag", "1"]
VERSION = "import importlib.metadata, sys; print(importlib.metadata.version(sys.argv[1]))"


@dataclass(frozen=True)
class Answer:
    """What an engine's parser says: the lines of its flags file, and why it refuses which of the `given` commands."""

    backend: str
    version: str
    flags: dict[str, Any]
    refused: list[Any]
    golden: list[list[str]]
    drawn: list[list[str]]

    def refusals(self, commands: list[list[str]]) -> list[Any]:
        """Those of some of the commands."""
        return [each for each in self.refused if each[0] in commands]


@pytest.fixture(scope="module")
def library() -> Library:
    return load_library()


@pytest.fixture(scope="module", params=BACKENDS)
def answer(request: pytest.FixtureRequest, library: Library) -> Answer:
    """Everything is asked at once: to import an engine takes far longer than to parse."""
    backend = request.param
    variable = f"TANDEM_{backend.upper()}_PYTHON"
    python = os.environ.get(variable) or (sys.executable if find_spec(backend) else None)
    if python is None:
        pytest.skip(f"{backend} is not installed; {variable} can name an interpreter that has it")
    version = ran([python, "-c", VERSION, backend]).strip().split("+")[0]
    if version not in library.tables[backend]:
        pytest.skip(f"{backend} {version} has no table")
    golden, drawn = golden_commands(backend, version, library), drawn_commands(backend, version, library)
    said = ran([python, str(SCRIPT), backend], json.dumps([*golden, *drawn, UNKNOWN]))
    found = json.loads(said.splitlines()[-1])
    assert found["version"] == version
    flags = dict(line.strip().split(": ", 1) for line in found["flags"])
    return Answer(backend, version, flags, found["refused"], golden, drawn)


def ran(command: list[str], text: str = "") -> str:
    """The standard output of a command."""
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def golden_commands(backend: str, version: str, library: Library) -> list[list[str]]:
    """The arguments of every golden case of this version."""
    specs = {case: deployment_of(case).spec for case in CASES}
    cases = [case for case, spec in specs.items() if spec.backend == backend]
    cases = [case for case in cases if library.table(backend, specs[case].backend_version).version == version]
    return [each for case in cases for each in arguments(built(case, Cluster(library=library)))]


def drawn_commands(backend: str, version: str, library: Library) -> list[list[str]]:
    """The arguments of requests that the table takes."""
    commands: list[list[str]] = []

    @settings(max_examples=300, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(request=requests(library, backend, version))
    def draw(request: Any) -> None:
        try:
            rendering = render(request, library)
        except Refused:
            return
        program = len(rendering.table.command)
        commands.extend([str(item) for item in role.command[program:]] for role in rendering.roles)

    draw()
    return commands


def arguments(build: Any) -> list[list[str]]:
    """The server's arguments in each pod template of the workers."""
    found = []
    for item in build.objects:
        spec = item.get("spec", {})
        groups = spec.get("leaderWorkerTemplate", {})
        templates = [spec.get("template"), groups.get("leaderTemplate"), groups.get("workerTemplate")]
        if "tandem.dev/role" in item["metadata"]["labels"]:
            found += [template["spec"]["containers"][0]["args"] for template in templates if template]
    return [[expanded(text) for text in each] for each in found]


def expanded(text: str) -> str:
    for name, value in VARIABLES.items():
        text = text.replace(name, value)
    return text


def test_the_engines_own_parser_takes_every_golden_case(answer):
    assert answer.golden
    assert answer.refusals(answer.golden) == []


def test_the_engines_own_parser_takes_whatever_is_rendered(answer):
    assert len(answer.drawn) > 100
    assert answer.refusals(answer.drawn) == []


def test_the_parser_refuses_what_the_engine_does_not_know(answer):
    assert len(answer.refusals([UNKNOWN])) == 1


def test_the_flags_that_are_committed_are_those_of_the_parser(answer):
    committed = accepted(answer.backend, answer.version)["flags"]

    assert {name: json.loads(entry) for name, entry in answer.flags.items()} == committed
