"""show --plot and --gpu: a picture of memory, and bounds of speed."""

import json
import sys

import pytest

from tandem.cli.app import run
from tests.unit.blueprint.configs import GOLDEN, NEMOTRON_NANO


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(GOLDEN[0].config()))
    return str(path)


@pytest.fixture
def drawing():
    return pytest.importorskip("matplotlib", reason="needs the extra `plot`")


@pytest.mark.parametrize("more", [[], ["--gpu", "H100-80GB", "--gpus", "2", "--batch", "8", "--length", "4096"]])
def test_a_picture_is_drawn(model, tmp_path, drawing, capsys, more):
    from matplotlib.image import imread

    assert run(["blueprint", "show", model, "--plot", str(tmp_path / "a.png"), *more]) == 0
    height, width, _ = imread(tmp_path / "a.png").shape

    assert width > height > 400
    assert "8,030,261,248" in capsys.readouterr().out


@pytest.mark.parametrize(
    "document",
    [
        NEMOTRON_NANO,
        {"schema_version": 1, "weight_bytes": 1},
        {"schema_version": 1, "weight_bytes": 2**62, "max_seq_len": 1},
        {"schema_version": 1, "weight_bytes": 2**31, "architecture": "$\\frac{x$\x1b[31m\n" * 9},
    ],
    ids=["states", "small", "large", "names"],
)
def test_any_model_can_be_drawn(document, tmp_path, drawing, capsys):
    (tmp_path / "model.json").write_text(json.dumps(document))

    assert run(["blueprint", "show", str(tmp_path / "model.json"), "--plot", str(tmp_path / "a.svg")]) == 0
    assert (tmp_path / "a.svg").read_text().endswith("</svg>\n")
    assert "\x1b" not in capsys.readouterr().out


def test_without_matplotlib_it_is_said_how_to_get_it(model, tmp_path, monkeypatch, capsys):
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)

    assert run(["blueprint", "show", model, "--plot", str(tmp_path / "a.png")]) == 1
    assert "pip install 'tandem-operator[plot]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "said"), [("a.bmp", "the picture's format is not known"), ("no/a.png", "it cannot be written")]
)
def test_a_place_that_cannot_be_is_refused(model, tmp_path, drawing, capsys, name, said):
    assert run(["blueprint", "show", model, "--plot", str(tmp_path / name)]) == 1
    assert said in capsys.readouterr().err


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
