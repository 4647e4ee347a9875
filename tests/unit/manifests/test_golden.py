"""Golden files: `python -m tests.golden` writes them anew."""

import pytest

from tandem.manifests.yaml_out import to_yaml
from tests.golden import CASES, ROOT, built, deployment_of
from tests.unit.yaml_text import read_all


@pytest.mark.parametrize("case", CASES)
def test_s0_28_the_objects_of_a_case_are_the_golden_ones(cluster, case):
    golden = (ROOT / case / "objects.yaml").read_text(encoding="utf-8")

    assert to_yaml(built(case, cluster)) == golden


@pytest.mark.parametrize("case", CASES)
def test_the_text_of_a_case_is_read_back_as_its_objects(cluster, case):
    result = built(case, cluster)

    assert list(read_all(to_yaml(result))) == list(result.objects)


def test_every_backend_and_mode_has_its_cases():
    expected = {
        f"{backend}-{mode}-{kind}"
        for backend in ("torch", "vllm", "sglang", "trtllm")
        for mode in ("agg", "disagg")
        for kind in ("minimal", "full", "hub", "overlay")
    }
    assert expected <= set(CASES)


def test_every_version_of_every_backend_has_a_case_in_each_mode(cluster):
    tables = cluster.library.tables
    shipped = {(name, version, mode) for name in tables for version in tables[name] for mode in ("agg", "disagg")}
    specs = [deployment_of(case).spec for case in CASES]

    found = {
        (spec.backend, cluster.library.table(spec.backend, spec.backend_version).version, spec.mode) for spec in specs
    }
    assert found >= shipped
