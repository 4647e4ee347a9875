"""The chart's values, their schema and their documentation say the same."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tandem.api.crd import crd_texts

ROOT = Path(__file__).parents[3]
CHART = ROOT / "charts/tandem"
SCHEMA = json.loads((CHART / "values.schema.json").read_text())
VALUES = yaml.safe_load((CHART / "values.yaml").read_text())
TEMPLATES = "\n".join(path.read_text() for path in sorted((CHART / "templates").iterdir()))


def leaves(values: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Dotted names of all values that a user may set; a mapping without entries is a value itself."""
    for name, value in values.items():
        if isinstance(value, dict) and value and name != "resources":
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def objects(schema: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(schema, dict):
        if "properties" in schema and schema.get("type") == "object":
            yield path, schema
        for name, part in schema.items():
            yield from objects(part, f"{path}/{name}")


def test_default_values_meet_the_schema() -> None:
    jsonschema.Draft7Validator(SCHEMA).validate(VALUES)


def test_no_object_of_the_schema_takes_unknown_values() -> None:
    assert {path: schema.get("additionalProperties") for path, schema in objects(SCHEMA)} == {
        path: False for path, _ in objects(SCHEMA)
    }


def test_every_value_is_in_the_schema_and_every_schema_entry_has_a_default() -> None:
    assert set(SCHEMA["properties"]) - {"global"} == set(VALUES)
    for name, part in SCHEMA["properties"].items():
        if "properties" in part and name != "resources":
            assert set(part["properties"]) == set(VALUES[name]), name


@pytest.mark.parametrize("name", sorted(leaves(VALUES)))
def test_every_value_is_used_by_a_template(name: str) -> None:
    backend = re.fullmatch(r"workerImages\.(vllm|sglang|trtllm)", name)
    assert f".Values.{name}" in TEMPLATES or (backend and f'"{backend[1]}"' in TEMPLATES)


@pytest.mark.parametrize("name", sorted(leaves(VALUES)))
def test_every_value_is_documented(name: str) -> None:
    table = [line for line in (CHART / "README.md").read_text().splitlines() if line.startswith("| `")]
    documented = {word for line in table for word in re.findall(r"`([^`]+)`", line.split("|")[1])}
    spelled = documented | {f"workerImages{word}" for word in documented if word.startswith(".")}
    assert name in spelled


def test_crds_of_the_chart_are_files_and_what_the_models_generate() -> None:
    # Of a link to the directory, helm would speak at every command.
    assert not (CHART / "files/crds").is_symlink()
    assert {file.name: file.read_text() for file in (CHART / "files/crds").iterdir()} == crd_texts()


def test_application_version_is_the_distributions() -> None:
    project = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert project is not None
    assert yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"] == project[1]
