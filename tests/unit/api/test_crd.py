"""The generated CRDs: fresh, small, complete."""

import re
from pathlib import Path

import pytest

from tandem.api.crd import KINDS, MAX_BYTES, crd_texts, main
from tandem.data import data_dir
from tests.unit.yaml_text import read


def test_committed_crds_are_what_the_models_generate():
    directory = data_dir("crds")

    assert {entry.name: entry.read_text() for entry in directory.iterdir()} == crd_texts()


def test_generation_is_deterministic():
    assert crd_texts() == crd_texts()


@pytest.mark.parametrize("name", sorted(crd_texts()))
def test_each_crd_is_small_enough_for_a_client_side_apply(name):
    assert len(crd_texts()[name].encode()) < MAX_BYTES


@pytest.mark.parametrize("name", sorted(crd_texts()))
def test_descriptions_have_no_numbers_of_promises(name):
    assert not re.search(r"\bS[0-9]\.[0-9]", crd_texts()[name])


@pytest.mark.parametrize("name", sorted(crd_texts()))
def test_every_field_a_user_writes_is_documented_or_named_by_its_parent(name):
    version = read(crd_texts()[name])["spec"]["versions"][0]
    spec = version["schema"]["openAPIV3Schema"]["properties"]["spec"]

    assert spec["description"]
    if "parameters" in spec["properties"]:
        parameters = spec["properties"]["parameters"]["properties"]
        assert len(parameters) == 32
        assert all(parameter["description"] for parameter in parameters.values())


def test_every_kind_has_a_short_name_and_the_status_subresource():
    shorts = [kind.short for kind in KINDS]
    versions = [read(text)["spec"]["versions"][0] for text in crd_texts().values()]

    assert shorts == ["md", "mb", "mj", "mr"]
    assert all("status" in version["subresources"] for version in versions)


def test_check_names_a_stale_file(tmp_path: Path, capsys):
    assert main([str(tmp_path)]) == 0
    assert main(["--check", str(tmp_path)]) == 0
    (tmp_path / "modelroutes.yaml").write_text("stale")

    assert main(["--check", str(tmp_path)]) == 1
    assert "modelroutes.yaml is stale" in capsys.readouterr().err
