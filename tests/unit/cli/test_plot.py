"""show --plot and --gpu: when a picture of memory cannot be drawn, and bounds of speed."""

import json
import sys

import pytest

from tandem.cli.app import run
from tests.unit.blueprint.configs import GOLDEN


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(GOLDEN[0].config()))
    return str(path)


def test_without_matplotlib_it_is_said_how_to_get_it(model, tmp_path, monkeypatch, capsys):
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)

    assert run(["blueprint", "show", model, "--plot", str(tmp_path / "a.png")]) == 1
    assert "pip install 'tandem-operator[plot]'" in capsys.readouterr().err


def test_matplotlib_is_read_for_a_picture_only():
    import subprocess

    code = "import sys, tandem.cli.blueprint, tandem.cli.plot; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_bounds_of_a_gpu_are_told_as_bounds(model, capsys):
    assert run(["blueprint", "show", model, "--gpu", "h200", "--gpus", "2", "--batch", "4"]) == 0
    shown = capsys.readouterr().out

    assert "2 × H200-141GB  fits: needs" in shown
    assert "first token after at least" in shown
    assert "no engine is faster" in shown


def test_bounds_as_json_only_when_asked(model, capsys):
    assert run(["blueprint", "show", model, "-o", "json"]) == 0
    assert "bounds" not in json.loads(capsys.readouterr().out)["sizing"]
    assert run(["blueprint", "show", model, "-o", "json", "--gpu", "H200"]) == 0
    found = json.loads(capsys.readouterr().out)["sizing"]["bounds"]

    assert (found["gpu"], found["gpus"], found["limited_by"]) == ("H200-141GB", 1, "memory")
    assert found["tokens_per_second"] == pytest.approx(1 / found["token_seconds"])


def test_gpus_without_a_use_are_refused(model, capsys):
    assert run(["blueprint", "show", model, "--gpus", "2"]) == 2
    assert "give --gpu, or --plot, too" in capsys.readouterr().err


def test_a_gpu_that_is_not_known_is_refused(model, capsys):
    assert run(["blueprint", "show", model, "--gpu", "X1"]) == 1
    assert "this GPU is not known" in capsys.readouterr().err
