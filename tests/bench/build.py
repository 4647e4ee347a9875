"""How long the pure core takes: warm per backend and mode, 1,000 different deployments, and the commands cold.

Times in process are CPU times: on an idle machine the clock tells the same, on a busy one only the neighbours.

Beside it, where it is installed, the reference generator (aiconfigurator) with the same inputs: the environment
variable AICONFIGURATOR_PYTHON names an interpreter that can import it, else the one of an `aiconfigurator` on the PATH.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tandem.api.load import parse_resource
from tandem.generator.calls import generate_backend_artifacts, generate_config_from_input_dict
from tandem.manifests import Cluster, build
from tandem.manifests.yaml_out import to_yaml
from tandem.rendering.library import load_library

ROOT = Path(__file__).parents[2]
REFERENCE = Path(__file__).parent / "reference" / "aiconfigurator_side.py"
REPEATS = 200
COLD_REPEATS = 7
BACKENDS = ("torch", "vllm", "sglang", "trtllm")
# Those of the reference.
SHARED = ("vllm", "sglang", "trtllm")
# One disaggregated deployment as both generators read it.
INPUT: dict[str, Any] = {
    "ServiceConfig": {"model_path": "Qwen/Qwen3-32B", "served_model_name": "qwen"},
    "DynConfig": {"mode": "disagg"},
    "K8sConfig": {"name_prefix": "team", "k8s_namespace": "ml"},
    "SlaConfig": {"isl": 4000, "osl": 500},
    "WorkerConfig": {"prefill_workers": 2, "decode_workers": 3},
    "Workers": {
        "prefill": {"tensor_parallel_size": 2, "max_batch_size": 1},
        "decode": {"tensor_parallel_size": 2, "max_batch_size": 64},
    },
}


def deployment(name: str, backend: str, mode: str, **parameters: int) -> Any:
    """A deployment with the fields that most users set."""
    roles = {"agg": {}} if mode == "agg" else {"prefill": {}, "decode": {"replicas": 2}}
    spec = {
        "model": {"pvc": {"claimName": "models", "path": "qwen"}},
        "backend": backend,
        "mode": mode,
        "parameters": {"maxSeqLen": 4096, **parameters},
        "roles": roles,
    }
    metadata = {"name": name, "uid": "0b0e6f4e-6f0f-4f6e-9a43-5b7c7a2f6a11"}
    return parse_resource(
        {"apiVersion": "tandem.dev/v1alpha1", "kind": "ModelDeployment", "metadata": metadata, "spec": spec}
    )


def milliseconds(work: Callable[[], object], clock: Callable[[], float] = time.process_time) -> float:
    """The CPU time of one call, or that of another clock."""
    began = clock()
    work()
    return (clock() - began) * 1000


def median_ms(work: Callable[[], object], repeats: int = REPEATS) -> float:
    """The median CPU time of a call, after one that warms up."""
    work()
    return round(statistics.median(milliseconds(work) for _ in range(repeats)), 3)


def cold(command: Sequence[str]) -> dict[str, float]:
    """Median wall and CPU time, ms, of a command that starts anew each time."""
    walls, cpus = [], []
    for _ in range(COLD_REPEATS):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        walls.append(milliseconds(lambda: subprocess.run(command, check=True, capture_output=True), time.perf_counter))
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpus.append((after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) * 1000)
    return {"wall_ms": round(statistics.median(walls), 1), "cpu_ms": round(statistics.median(cpus), 1)}


def warm(cluster: Cluster) -> dict[str, Any]:
    """One deployment again and again: objects, and objects with their text."""
    found: dict[str, Any] = {}
    for backend in BACKENDS:
        for mode in ("agg", "disagg"):
            one = deployment("qwen", backend, mode)
            found[f"build_{backend}_{mode}_ms"] = median_ms(lambda d=one: build(d, cluster=cluster))
            text = median_ms(lambda d=one: to_yaml(build(d, cluster=cluster)), REPEATS // 4)
            found[f"build_and_yaml_{backend}_{mode}_ms"] = text
    return found


def different(cluster: Cluster) -> dict[str, Any]:
    """1,000 deployments of which no two are equal, over all backends."""
    sizes = range(1, 1 + 1000 // len(BACKENDS))
    many = [deployment(f"d{n}", backend, "disagg", maxBatchSize=n) for backend in BACKENDS for n in sizes]
    seconds = milliseconds(lambda: [build(each, cluster=cluster) for each in many]) / 1000
    return {"build_1000_different_s": round(seconds, 3)}


def commands() -> dict[str, Any]:
    """Commands in processes of their own."""
    tandem = str(Path(sys.executable).parent / "tandem")
    found = {
        f"tandem_render_{backend}_cold": cold(
            [tandem, "render", "-f", str(ROOT / "docs" / "examples" / f"{backend}-disagg.yaml")]
        )
        for backend in BACKENDS
    }
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "input.yaml"
        config.write_text(json.dumps(INPUT))
        options = ["--backend", "vllm", "--config", str(config), "--output", folder]
        found["tandem_generator_vllm_cold"] = cold([tandem, "generator", "render-artifacts", *options])
    return found


def side_by_side() -> dict[str, Any]:
    """The same inputs through both generators: an input becomes parameters, these become every file."""
    library = load_library().complete()

    def ours(backend: str) -> dict[str, float]:
        params = generate_config_from_input_dict(INPUT, backend=backend, library=library)
        return {
            "normalise_ms": median_ms(lambda: generate_config_from_input_dict(INPUT, backend=backend, library=library)),
            "artifacts_ms": median_ms(
                lambda: generate_backend_artifacts(params, backend, library=library), REPEATS // 4
            ),
        }

    return {"tandem": {backend: ours(backend) for backend in SHARED}, "aiconfigurator": reference()}


def reference() -> dict[str, Any] | str:
    """What the reference generator needs for the same, or why that is not known."""
    python = reference_python()
    if python is None:
        return "not installed (AICONFIGURATOR_PYTHON names an interpreter that has it)"
    asked = json.dumps({"input": INPUT, "backends": SHARED})
    done = subprocess.run([python, str(REFERENCE)], input=asked, capture_output=True, text=True, check=False)
    if done.returncode:
        return f"failed: {done.stderr.strip().splitlines()[-1]}"
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found | {"vllm_cold": cold([python, str(REFERENCE), "--once", json.dumps(INPUT), "vllm"])}


def reference_python() -> str | None:
    """The interpreter that the reference generator is installed for."""
    if named := os.environ.get("AICONFIGURATOR_PYTHON"):
        return named
    script = shutil.which("aiconfigurator")
    first = Path(script).read_text(encoding="utf-8").partition("\n")[0] if script else ""
    return first.removeprefix("#!").strip() or None if first.startswith("#!") else None


def main() -> None:
    """Prints the figures as one line of JSON."""
    library = load_library().complete()
    result: dict[str, Any] = {"load_library_ms": median_ms(lambda: load_library().complete(), 5)}
    cluster = Cluster(
        library=library, router_image="tandem-operator:1", images={name: f"{name}:1" for name in BACKENDS}
    )
    result |= warm(cluster) | different(cluster) | commands() | {"same_input": side_by_side()}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
