"""The reference pages: fresh, and complete."""

import re
from pathlib import Path

from tandem.api.crd import KINDS
from tandem.api.parameters import EngineParameters
from tandem.api.reference import main, pages, reference

DOCS = Path(__file__).parents[3] / "docs" / "reference"


def test_committed_pages_are_what_the_models_generate():
    assert {name: (DOCS / name).read_text() for name in pages()} == pages()


def test_every_parameter_has_a_row():
    text = reference(KINDS[0])

    assert all(f"| `parameters.{field.alias}` |" in text for field in EngineParameters.model_fields.values())


def test_what_is_refused_is_listed():
    assert "- `spec.model`: a model has exactly one source: give exactly one of blueprintRef" in reference(KINDS[0])


def test_check_tells_a_stale_page(tmp_path, capsys):
    main([str(tmp_path)])
    assert main(["--check", str(tmp_path)]) == 0
    (tmp_path / "modeljob.md").write_text("stale")

    assert main(["--check", str(tmp_path)]) == 1
    assert "modeljob.md is stale" in capsys.readouterr().err


def test_no_page_speaks_of_anything_but_the_product():
    assert not [name for name, text in pages().items() if re.search(r"\bS[0-9]\.[0-9]", text)]


def test_every_field_has_a_meaning():
    empty = [
        f"{name}: {line}"
        for name, text in pages().items()
        for line in text.splitlines()
        if line.startswith("| `") and line.endswith("|  |")
    ]

    assert empty == []
