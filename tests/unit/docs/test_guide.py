"""What the guide shows of the command line is what it prints."""

import re
from pathlib import Path

from tandem.cli.app import run

GUIDE = (Path(__file__).parents[3] / "docs" / "guide.md").read_text()
DEPLOYMENT = """\
apiVersion: tandem.dev/v1alpha1
kind: ModelDeployment
metadata: {name: qwen}
spec:
  model: {pvc: {claimName: models, path: qwen}}
  backend: vllm
  mode: agg
  backendVersion: 0.33
  parameters:
    max-model-len: 4096
"""


def test_the_mistakes_in_the_guide_are_told_so(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("deployment.yaml").write_text(DEPLOYMENT)
    assert run(["validate", "-f", "deployment.yaml"]) == 1
    assert capsys.readouterr().err.splitlines() == re.findall(r"^error: .*$", GUIDE, re.MULTILINE)
