"""show --plot draws a picture of a model's memory: matplotlib takes a second to read and half of one to draw."""

import json

import pytest

from tandem.cli.app import run
from tests.unit.blueprint.configs import GOLDEN, NEMOTRON_NANO

pytestmark = pytest.mark.integration


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


@pytest.mark.parametrize(
    ("name", "said"), [("a.bmp", "the picture's format is not known"), ("no/a.png", "it cannot be written")]
)
def test_a_place_that_cannot_be_is_refused(model, tmp_path, drawing, capsys, name, said):
    assert run(["blueprint", "show", model, "--plot", str(tmp_path / name)]) == 1
    assert said in capsys.readouterr().err
