"""Golden directories of the generator: an input per backend and mode, and every file that it becomes, byte for byte.

`python -m tests.golden.generator` writes all files anew from each `input.yaml`; look at the difference before you
commit it. A new case is a new directory `BACKEND-MODE` with an `input.yaml`.
"""

from __future__ import annotations

from pathlib import Path

from tandem.generator.api import generate_backend_artifacts, generate_config_from_yaml
from tandem.generator.artifacts import is_written
from tandem.rendering.library import Library

ROOT = Path(__file__).parent
CASES = tuple(sorted(path.parent.name for path in ROOT.glob("*/input.yaml")))


def made(case: str, library: Library) -> dict[str, str]:
    """Name and text of every file of a case."""
    backend = case.partition("-")[0]
    params = generate_config_from_yaml(ROOT / case / "input.yaml", backend=backend, library=library)
    found = generate_backend_artifacts(params, backend, library=library)
    return {name: text for name, text in found.items() if is_written(name)}


def committed(case: str) -> dict[str, str]:
    """Name and text of every committed file of a case."""
    return {
        path.name: path.read_text(encoding="utf-8") for path in (ROOT / case).iterdir() if path.name != "input.yaml"
    }
