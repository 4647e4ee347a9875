"""What a pod tells of a model."""

from __future__ import annotations

import http.server
import json
import threading

import pytest

from tandem.api.problems import Refused
from tandem.blueprint.packed import pack, unpack
from tandem.blueprint.text import read_text
from tandem.cli.app import run
from tandem.cli.probe import LONGEST_ANSWER
from tests.unit.blueprint.configs import DEEPSEEK_V3, GOLDEN, NEMOTRON_NANO

CONFIGS = [each.config() for each in GOLDEN] + [DEEPSEEK_V3, NEMOTRON_NANO]


@pytest.fixture
def probe(tmp_path):
    def probe(*arguments):
        answer = tmp_path / "answer"
        status = run(["probe", *arguments, "--answer", str(answer)])
        return status, json.loads(answer.read_text())

    return probe


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config["model_type"])
def test_every_model_fits_into_a_termination_message(config):
    blueprint = read_text(json.dumps(config), "x")

    text = pack(blueprint)

    assert len(text) < LONGEST_ANSWER // 2
    assert unpack(text, "x") == blueprint


def test_a_directory(probe, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIGS[0]))

    status, told = probe("--directory", str(tmp_path))

    assert status == 0
    assert unpack(told["facts"], "x").total_params == GOLDEN[0].total


@pytest.mark.parametrize("text", [None, "", '{"model_type": "llama"', "[" * 100_000, '{"model_type": "\\u0000é"}'])
def test_a_bad_config_is_told(probe, tmp_path, text):
    if text is not None:
        (tmp_path / "config.json").write_text(text)

    status, told = probe("--directory", str(tmp_path))

    assert status == 1
    assert "config.json" in told["refused"]


def test_a_long_reason_is_cut(probe, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "é" * 100_000}))

    assert probe("--directory", str(tmp_path))[0] == 1
    assert len((tmp_path / "answer").read_text()) <= LONGEST_ANSWER


def test_a_repository(probe, monkeypatch):
    class Hub(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked = (self.path, self.headers["Authorization"])
            good = asked == ("/owner/name/resolve/refs%2Fpr%2F1/config.json", "Bearer secret")
            self.send_response(200 if good else 404)
            self.end_headers()
            self.wfile.write(json.dumps(CONFIGS[0]).encode())

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("HF_TOKEN", "secret")
        found = probe("--repository", "owner/name", "--revision", "refs/pr/1")
        absent = probe("--repository", "owner/other")
        server.shutdown()

    assert unpack(found[1]["facts"], "x").total_params == GOLDEN[0].total
    assert absent[0] == 1
    assert "there is no such repository" in absent[1]["refused"]


@pytest.mark.parametrize("text", ["", "x", "!", "eJw=", pack(read_text(json.dumps(CONFIGS[0]), "x"))[:-8]])
def test_what_is_no_packed_blueprint_is_refused(text):
    with pytest.raises(Refused):
        unpack(text, "status.facts")


NAMED = """
apiVersion: tandem.dev/v1alpha1
kind: ModelDeployment
metadata: {name: one}
spec: {model: {blueprintRef: {name: mine}}}
---
apiVersion: tandem.dev/v1alpha1
kind: ModelBlueprint
metadata: {name: mine}
spec: {from: {pvc: {claimName: models, path: qwen}}}
"""


@pytest.mark.parametrize("command", ["validate", "render"])
def test_a_blueprint_in_the_same_file_gives_the_weights(tmp_path, capsys, command):
    (tmp_path / "f.yaml").write_text(NAMED)

    assert run([command, "-f", str(tmp_path / "f.yaml")]) == 0
    assert command == "validate" or "/models/qwen" in capsys.readouterr().out


def test_a_blueprint_that_is_nowhere_is_told(tmp_path, capsys):
    (tmp_path / "f.yaml").write_text(NAMED.split("---", maxsplit=1)[0])

    assert run(["validate", "-f", str(tmp_path / "f.yaml")]) == 1
    assert "the file holds no such ModelBlueprint" in capsys.readouterr().err
