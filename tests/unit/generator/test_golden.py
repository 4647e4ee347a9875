"""Every file of every backend and mode is as committed (`python -m tests.golden.generator` writes them anew)."""

import pytest

from tests.golden.generator import CASES, committed, made


@pytest.mark.parametrize("case", CASES)
def test_s0_28_every_backend_and_mode_gives_its_golden_files(case, library):
    assert made(case, library) == committed(case)


def test_s0_28_every_backend_has_golden_files_of_both_modes(library):
    served = [backend for backend, tables in library.tables.items() if tables]

    assert {f"{backend}-{mode}" for backend in served for mode in ("agg", "disagg")} <= set(CASES)
