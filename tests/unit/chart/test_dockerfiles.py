"""The Dockerfile: what invalidates which layer, who runs, what is sent to the builder."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
DOCKERFILE = (ROOT / "images/Dockerfile").read_text()
BOTH = pytest.mark.parametrize("image", ["operator", "server"])


def stages() -> dict[str, list[str]]:
    """Instructions by the name of their stage. Continued lines are joined."""
    found: dict[str, list[str]] = {}
    current: list[str] = []
    for line in re.sub(r"\\\n\s*", " ", DOCKERFILE).splitlines():
        start = re.fullmatch(r"FROM (\S+) AS (\S+)", line)
        if start:
            current = found.setdefault(start[2], [])
        if line and not line.startswith("#"):
            current.append(line)
    return found


def test_layer_with_torch_depends_on_the_versions_that_torch_needs_alone() -> None:
    torch = stages()["torch"]
    copied = [line for line in (*stages()["base"], *torch) if line.startswith(("COPY", "ADD"))]
    assert copied == ["COPY images/install.sh /requirements/", "COPY images/torch-constraints.txt /requirements/"]
    assert [line for line in torch if line.startswith("RUN") and line.endswith(" torch")] == torch[-1:]
    assert stages()["server-dependencies"][0] == "FROM torch AS server-dependencies"


@BOTH
def test_application_is_copied_into_a_layer_of_its_own(image: str) -> None:
    first, second = stages()[image][:2]
    assert first == f"FROM {image}-dependencies AS {image}"
    assert re.fullmatch(r"COPY --from=(operator-)?application /app /app", second)
    assert not [line for line in stages()[f"{image}-dependencies"] if "COPY ." in line]


@BOTH
def test_processes_run_as_an_ordinary_user_given_by_number(image: str) -> None:
    assert "USER 10001:10001" in stages()[image]


def test_base_image_can_be_given_and_is_the_same_everywhere() -> None:
    assert DOCKERFILE.count("ARG BASE=python:3.12-slim") == 1
    outside = [line for lines in stages().values() for line in lines if line.startswith("FROM")]
    assert [line for line in outside if line.split()[1] not in stages()] == ["FROM ${BASE} AS base"]


def test_installer_is_the_version_of_the_set_up() -> None:
    versions = {
        re.search(r"^uv_version=(\S+)$", (ROOT / script).read_text(), re.MULTILINE)
        for script in ("make/venv.sh", "images/install.sh")
    }
    assert len({found and found[1] for found in versions}) == 1


def test_operator_image_takes_no_extra_but_that_of_spans_and_drops_the_server() -> None:
    taken = [re.findall(r"--extra (\w+)", line) for line in stages()["operator-dependencies"] if "--extra" in line]
    assert taken == [["otel"]]
    assert stages()["operator"][1] == "COPY --from=operator-application /app /app"
    assert stages()["operator-application"][-1] == "RUN rm -rf /app/tandem_serve /app/bin/tandem-serve"


def test_builder_gets_nothing_but_what_the_distribution_is_made_of() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*"
    kept = {line[1:] for line in lines if line.startswith("!")}
    project = (ROOT / "pyproject.toml").read_text()
    data = set(re.findall(r'^"(\w+)" = "tandem/_data/', project, re.MULTILINE))
    packages = re.search(r"^packages = \[(.*)\]$", project, re.MULTILINE)
    assert packages is not None
    sources = {name.split("/")[0] for name in re.findall(r'"([^"]+)"', packages[1])}
    copied = set(re.findall(r"COPY (images/\S+) ", DOCKERFILE))
    assert kept == {"pyproject.toml", "constraints.txt", "README.md", *copied, *data, *sources}
