"""Writes the golden directories anew."""

from tandem.generator.artifacts import write_artifacts
from tandem.rendering.library import load_library
from tests.golden.generator import CASES, ROOT, committed, made

library = load_library()
for case in CASES:
    files = made(case, library)
    for name in committed(case).keys() - files.keys():
        (ROOT / case / name).unlink()
    for path in write_artifacts(files, ROOT / case):
        print(path.relative_to(ROOT.parents[2]))
