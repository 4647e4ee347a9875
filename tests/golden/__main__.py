"""Writes the golden files anew."""

from tandem.manifests import Cluster
from tandem.manifests.yaml_out import to_yaml
from tandem.rendering.library import load_library
from tests.golden import CASES, ROOT, built

cluster = Cluster(library=load_library())
for case in CASES:
    (ROOT / case / "objects.yaml").write_text(to_yaml(built(case, cluster)), encoding="utf-8")
    print(f"tests/golden/{case}/objects.yaml")
