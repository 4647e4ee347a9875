"""From a deployment's file to its first token: in local mode, and on a real node with the chart's operator.

And of the bundled server alone, from its process to readiness, against loading the same model with transformers.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import aiohttp

from demo.model import ensure_model
from demo.passages import passages, prompt_of
from tandem.api.load import parse_resource
from tandem.local.client import stream_answer
from tandem.local.unit import UnitStatus
from tandem.local.up import LocalOptions, address, plan_deployment, run_directory, running
from tandem.manifests import Cluster
from tandem.rendering.library import load_library
from tests.bench import serve
from tests.cluster.binaries import Binaries
from tests.cluster.errors import Unavailable
from tests.cluster.node import running_node_cluster
from tests.e2e.release import Release, build_images
from tests.e2e.workspace import MODEL_PATH, Workspace, completion, model_deployment

MODES = ("agg", "disagg")
POLL_SECONDS = 0.05
ROUNDS = 3
ALONE = """
import sys
from transformers import AutoModelForCausalLM, AutoTokenizer
AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype="float32")
AutoTokenizer.from_pretrained(sys.argv[1])
"""


class Silence:
    """An observer that shows nothing."""

    def changed(self, status: UnitStatus) -> None:
        """Nothing."""

    def line(self, unit: str, text: str) -> None:
        """Nothing."""


async def local(mode: str, model: Path) -> dict[str, float]:
    """Seconds from the start of the processes to readiness and to the first token."""
    document = model_deployment("bench", mode=mode)
    document["spec"]["model"]["pvc"].pop("path")
    deployment = parse_resource(document)
    claim = document["spec"]["model"]["pvc"]["claimName"]
    options = LocalOptions(cluster=Cluster(library=load_library()), port=0, volumes={claim: model})
    with run_directory() as directory:
        began = time.monotonic()
        plan = plan_deployment(deployment, options, directory=directory)
        async with running(plan, directory=directory, observer=Silence()), aiohttp.ClientSession() as session:
            ready = time.monotonic() - began
            prompt = prompt_of(passages()[0])
            async for chunk in stream_answer(session, address(plan), model="bench", prompt=prompt, max_tokens=1):
                if chunk.text:
                    break
            return {"ready_s": round(ready, 2), "first_token_s": round(time.monotonic() - began, 2)}


def server() -> dict[str, float]:
    """Median seconds of imports and `from_pretrained`, and of the server until it has answered; in turns."""
    alone, ready = [], []
    with tempfile.TemporaryDirectory() as directory:
        model = Path(directory) / "model"
        serve.save_model(model)
        for _ in range(ROUNDS):
            began = time.monotonic()
            subprocess.run([sys.executable, "-c", ALONE, str(model)], check=True, capture_output=True)
            alone.append(time.monotonic() - began)
            ready.append(asyncio.run(_until_answered(model)))
    result = {"from_pretrained_s": statistics.median(alone), "first_answer_s": statistics.median(ready)}
    result["ratio"] = result["first_answer_s"] / result["from_pretrained_s"]
    return {name: round(value, 2) for name, value in result.items()}


async def _until_answered(model: Path) -> float:
    began = time.monotonic()
    async with serve.running("tandem", model, "float32"):
        return time.monotonic() - began


def on_node(workspace: Workspace, mode: str) -> dict[str, float]:
    """Seconds from `kubectl apply` to the worker Deployments, to Ready and to the first token."""
    name = f"bench-{mode}"
    began = time.monotonic()
    workspace.apply(model_deployment(name, mode=mode))
    while len(workspace.list("deployments", f"tandem.dev/deployment={name}")) < (2 if mode == "agg" else 3):
        time.sleep(POLL_SECONDS)
    children = time.monotonic() - began
    workspace.wait_ready(name)
    ready = time.monotonic() - began
    answers = workspace.post(name, "/v1/completions", completion(name, prompt_of(passages()[0]), max_tokens=1))
    first = time.monotonic() - began
    if [answer.status for answer in answers] != [200]:
        raise RuntimeError(f"{name} did not answer: {answers}")
    workspace.delete(name)
    return {"children_s": round(children, 2), "ready_s": round(ready, 2), "first_token_s": round(first, 2)}


def node(model: Path) -> dict[str, Any]:
    """The figures on a real node, or why there are none here."""
    try:
        with running_node_cluster(Binaries.from_environment(), purpose="benchmark") as cluster:
            build_images(cluster)
            release = Release(cluster)
            release.install()
            with tempfile.TemporaryDirectory() as volume:
                shutil.copytree(model, Path(volume) / MODEL_PATH)
                for path in (Path(volume), *Path(volume).rglob("*")):
                    path.chmod(0o755 if path.is_dir() else 0o644)
                workspace = Workspace(cluster, "bench")
                workspace.prepare(Path(volume))
                return {mode: on_node(workspace, mode) for mode in MODES}
    except Unavailable as error:
        return {"skipped": error.reason}


def main() -> None:
    """Prints the figures as one line of JSON."""
    model = ensure_model()
    alone = server()
    print("server", alone, file=sys.stderr, flush=True)
    result = {"server": alone, "local": {mode: asyncio.run(local(mode, model)) for mode in MODES}, "node": node(model)}
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
