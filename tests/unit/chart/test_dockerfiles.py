"""The Dockerfiles: what invalidates which layer, who runs, what is sent to the builder."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
OPERATOR = (ROOT / "images/operator/Dockerfile").read_text()
SERVER = (ROOT / "inference_image/Dockerfile").read_text()
BOTH = pytest.mark.parametrize("dockerfile", [OPERATOR, SERVER], ids=["operator", "server"])


def stages(dockerfile: str) -> dict[str, list[str]]:
    """Instructions by the name of their stage; the last stage is ''. Continued lines are joined."""
    found: dict[str, list[str]] = {}
    current: list[str] = []
    for line in re.sub(r"\\\n\s*", " ", dockerfile).splitlines():
        start = re.fullmatch(r"FROM (\S+)(?: AS (\S+))?", line)
        if start:
            current = found.setdefault(start[2] or "", [])
        if line and not line.startswith("#"):
            current.append(line)
    return found


def test_layer_with_torch_depends_on_the_pinned_versions_alone() -> None:
    torch = stages(SERVER)["torch"]
    assert [line for line in torch if line.startswith(("COPY", "ADD"))] == ["COPY constraints.txt /requirements/"]
    assert [line for line in torch if line.startswith("RUN") and line.split()[-5] == "torch"] == torch[-1:]
    assert stages(SERVER)["dependencies"][0] == "FROM torch AS dependencies"


@BOTH
def test_application_is_copied_into_a_layer_of_its_own(dockerfile: str) -> None:
    last = stages(dockerfile)[""]
    assert last[:2] == ["FROM dependencies", "COPY --from=application /app /app"]
    assert not [line for line in stages(dockerfile)["dependencies"] if "COPY ." in line]


@BOTH
def test_processes_run_as_an_ordinary_user_given_by_number(dockerfile: str) -> None:
    assert "USER 10001:10001" in stages(dockerfile)[""]


@BOTH
def test_base_image_can_be_given_and_is_the_same_everywhere(dockerfile: str) -> None:
    assert dockerfile.count("ARG BASE=python:3.12-slim") == 1
    outside = {line for lines in stages(dockerfile).values() for line in lines if line.startswith("FROM")}
    assert {line.split()[1] for line in outside} <= {"${BASE}", *stages(dockerfile)}


@BOTH
def test_installer_is_the_version_of_the_set_up(dockerfile: str) -> None:
    pinned = re.search(r"^uv_version=(\S+)$", (ROOT / "make/venv.sh").read_text(), re.MULTILINE)
    assert pinned is not None
    assert set(re.findall(r"ARG UV_VERSION=(\S+)", dockerfile)) == {pinned[1]}
    assert len(re.findall(r"uv pip install", dockerfile)) == len(re.findall(r"--system-certs", dockerfile))


def test_operator_image_takes_no_extra_and_drops_the_server() -> None:
    assert "--extra" not in OPERATOR
    assert "rm -rf /app/tandem_serve" in OPERATOR


def test_builder_gets_nothing_but_what_the_distribution_is_made_of() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*"
    kept = {line[1:] for line in lines if line.startswith("!")}
    project = (ROOT / "pyproject.toml").read_text()
    data = set(re.findall(r'^"(\w+)" = "tandem/_data/', project, re.MULTILINE))
    packages = re.search(r"^packages = \[(.*)\]$", project, re.MULTILINE)
    assert packages is not None
    sources = {name.split("/")[0] for name in re.findall(r'"([^"]+)"', packages[1])}
    assert kept == {"pyproject.toml", "constraints.txt", "README.md", *data, *sources}
