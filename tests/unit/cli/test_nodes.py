"""Which cluster a file is rendered for: whether workers may span nodes, and how large a node is."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tandem.cli.app import run

LARGE = """\
apiVersion: tandem.dev/v1alpha1
kind: ModelDeployment
metadata: {name: large, namespace: ml}
spec:
  model: {hub: {repo: deepseek-ai/DeepSeek-V3}}
  backend: vllm
  mode: agg
  parameters: {tensorParallelSize: 16}
  roles: {agg: {}}
"""


@pytest.fixture
def large(tmp_path: Path) -> str:
    path = tmp_path / "large.yaml"
    path.write_text(LARGE)
    return str(path)


def kinds(text: str) -> set[str]:
    return {item["kind"] for item in yaml.safe_load_all(text)}


def test_a_worker_that_no_node_holds_is_refused_with_both_ways_out(large, capsys):
    assert run(["render", "-f", large]) == 1
    told = capsys.readouterr().err
    assert "8:" in told
    assert "takes 16 GPUs, and a node has 8" in told
    assert "Use at most 8 GPUs for one worker, and more replicas, or install LeaderWorkerSet 0.9.0 or newer." in told


def test_it_spans_nodes_where_the_cluster_serves_the_kind(large, capsys):
    assert run(["render", "-f", large, "--leader-worker-sets"]) == 0
    assert "LeaderWorkerSet" in kinds(capsys.readouterr().out)


def test_it_fits_on_a_larger_node(large, capsys):
    assert run(["render", "-f", large, "--gpus-per-node", "16"]) == 0
    assert "LeaderWorkerSet" not in kinds(capsys.readouterr().out)


def test_a_node_has_at_least_one_gpu(large, capsys):
    assert run(["render", "-f", large, "--gpus-per-node", "0"]) == 2
    assert "--gpus-per-node" in capsys.readouterr().err
