"""The fields of pods: read from the Kubernetes client's models, committed, and complete."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from tandem.api.podfields import FIELDS, TOP

ROOT = Path(__file__).parents[3]
PLAIN = {"str", "int", "bool", "quantity", "any"}


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """The script, which belongs to no package."""
    spec = importlib.util.spec_from_file_location("pod_fields", ROOT / "make" / "pod_fields.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_committed_fields_are_those_of_the_pinned_client(script):
    assert script.main(["--check"]) == 0


def test_a_stale_file_is_told(script, tmp_path, capsys):
    assert script.main(["--check", str(tmp_path)]) == 1
    assert "podfields.py is stale: run make generated" in capsys.readouterr().err


def test_every_type_is_plain_or_has_fields_of_its_own():
    kinds = {kind.strip("[]{}") for fields in FIELDS.values() for kind in fields.values()}

    assert TOP in FIELDS
    assert kinds - PLAIN <= set(FIELDS)


@pytest.mark.parametrize(
    ("kind", "ours"),
    [
        ("str", "str"),
        ("datetime", "str"),
        ("object", "any"),
        ("V1EnvVar", "EnvVar"),
        ("CoreV1ResourceClaim", "CoreResourceClaim"),
        ("List[V1EnvVar]", "[EnvVar]"),
        ("Dict[str, str]", "{str}"),
    ],
)
def test_types_of_the_client_become_ours(script, kind, ours):
    assert script.type_of("Some.field", kind) == ours


def test_quantities_are_told_apart_from_texts(script):
    assert script.type_of("ResourceRequirements.limits", "Dict[str, str]") == "{quantity}"
