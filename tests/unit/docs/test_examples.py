"""Every example can be deployed, and the README names real files, commands and targets."""

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from tandem.api.load import load_deployment
from tandem.cli.app import root
from tandem.manifests import Cluster, build
from tandem.rendering.library import load_library

ROOT = Path(__file__).parents[3]
EXAMPLES = sorted((ROOT / "docs" / "examples").glob("*.yaml"))
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_builds_without_warnings(path):
    cluster = Cluster(library=load_library(), router_image="tandem-operator:test", images={})

    result = build(load_deployment(path), cluster=cluster)

    assert {item["kind"] for item in result.objects} >= {"Deployment", "Service"}
    assert result.warnings == ()


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_s1_28_an_example_is_valid_before_it_is_deployed(path):
    result = CliRunner().invoke(root, ["validate", "-f", str(path), "-o", "json"])

    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["valid"] is True


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_names_files_that_exist(page):
    text = page.read_text()
    links = re.findall(r"\]\((?!http|#)([^)#]+)", text)
    examples = [f"docs/examples/{name}" for name in re.findall(r"docs/examples/([\w.-]+\.yaml)", text)]

    missing = [link for link in links if not (page.parent / link).exists()]
    missing += [path for path in examples if not (ROOT / path).exists()]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_names_commands_that_exist(page):
    commands = set(re.findall(r"^\$ tandem ([a-z]+)", page.read_text(), flags=re.MULTILINE))
    runner = CliRunner()

    assert [name for name in sorted(commands) if runner.invoke(root, [name, "--help"]).exit_code != 0] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_names_make_targets_that_exist(page):
    targets = set(re.findall(r"`?make ([a-z0-9-]+)", page.read_text()))
    known = set(re.findall(r"^([a-z0-9-]+):.*##", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))

    assert targets - known == set()
