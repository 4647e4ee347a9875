"""The part of the pinned versions that the torch layer depends on."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """The script, which belongs to no package."""
    spec = importlib.util.spec_from_file_location("torch_constraints", ROOT / "make" / "torch_constraints.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


NEEDS: Mapping[str, list[str]] = {
    "torch": ["sympy>=1", "Typing_Extensions", "cuda[blas]==1; sys_platform == 'linux'"],
    "sympy": ["mpmath"],
    "transformers": ["typing-extensions", "regex"],
    "pytest": ["pluggy"],
}
CONSTRAINTS = """\
cuda==1 ; sys_platform == 'linux'
mpmath==1
nvidia-blas==2 ; sys_platform == 'linux'
pluggy==3
pytest==9
regex==4
sympy==5
torch==6
transformers==7
typing-extensions==8
"""


def needs(one: Requirement) -> list[str]:
    return NEEDS.get(one.name.lower(), [])


def test_lines_of_other_packages_are_left_out(script: ModuleType) -> None:
    part = script.torch_part(CONSTRAINTS, ["torch==6", "transformers==7", "pytest==9"], needs)
    names = [line.split("==")[0] for line in part.splitlines()]
    assert names == ["cuda", "mpmath", "nvidia-blas", "sympy", "torch", "typing-extensions"]


def test_a_new_development_dependency_changes_nothing(script: ModuleType) -> None:
    before = script.torch_part(CONSTRAINTS, ["torch==6", "transformers==7", "pytest==9"], needs)
    with_plugin = CONSTRAINTS.replace("pytest==9\n", "pytest==9\npytest-new==1\n")
    after = script.torch_part(with_plugin, ["torch==6", "transformers==7", "pytest==9", "pytest-new==1"], needs)
    assert after == before


def test_the_committed_file_is_fresh(script: ModuleType) -> None:
    constraints = (ROOT / "constraints.txt").read_text()
    fresh = script.torch_part(constraints, script.project_requirements(), script.installed_needs)
    committed = (ROOT / "images/torch-constraints.txt").read_text()
    assert committed == fresh
    assert "://" not in committed
    assert set(committed.splitlines()) <= set(constraints.splitlines())
