"""The guide to the generator shows what happens, and the reference is fresh."""

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from tandem.cli.app import root
from tandem.generator.pages import pages
from tandem.rendering.library import load_library
from tests.golden.generator import CASES, committed

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "docs" / "generator.md").read_text()


def example(name):
    return re.search(rf"<!-- example: {re.escape(name)} -->\n```\w+\n(.*?)```", TEXT, re.DOTALL)[1]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A directory with the input of the guide, as the current one."""
    (tmp_path / "input.yaml").write_text(example("input.yaml"))
    (tmp_path / "mapping.yaml").write_text(example("mapping.yaml"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(line):
    return CliRunner().invoke(root, line.removeprefix("$ tandem ").removesuffix(" > /dev/null").split())


@pytest.mark.usefixtures("folder")
def test_the_flags_of_the_guide_are_what_is_printed():
    command, _, printed = example("render-config").partition("\n")

    assert run(command).stdout == printed


def test_the_files_of_the_guide_are_what_is_written(folder):
    command, _, listed = example("render-artifacts").splitlines()

    assert run(command).exit_code == 0
    assert sorted(path.name for path in (folder / "out").iterdir()) == listed.split()


def test_s0_28_the_guide_lists_every_file_that_is_written():
    rows = re.search(r"\| file \| what \|\n\|-+\|-+\|\n((?:\|.*\n)+)", TEXT)[1].splitlines()
    listed = [name for row in rows for name in re.findall(r"`([^`]+)`", row.split("|")[1])]
    patterns = [name.replace(".", r"\.").replace("<n>", r"\d+").replace("<role>", r"[a-z]+") for name in listed]

    written = {name for case in CASES for name in committed(case) if name != "input.yaml"}

    assert [name for name in written if not any(re.fullmatch(pattern, name) for pattern in patterns)] == []
    assert [pattern for pattern in patterns if not any(re.fullmatch(pattern, name) for name in written)] == []


@pytest.mark.usefixtures("folder")
def test_the_python_of_the_guide_runs():
    names = {}

    exec(example("python"), names)

    assert names["flags"]["max_batch_size"] == {"max-num-seqs": 64}
    assert "--tensor-parallel-size 2" in names["bundle"].by_mode["agg"]["cli_args_agg"]


@pytest.mark.usefixtures("folder")
def test_the_mapping_file_of_the_guide_gives_a_script():
    done = run(
        "$ tandem generator render-artifacts --backend vllm --config input.yaml --mapping mapping.yaml --output out"
    )

    assert done.exit_code == 0, done.stderr
    assert "--max-model-len 4096" in (Path("out") / "run.sh").read_text()


@pytest.mark.parametrize(("name", "text"), list(pages(load_library()).items()))
def test_the_reference_is_fresh(name, text):
    assert (ROOT / "docs" / "reference" / name).read_text() == text, "run make generated"
