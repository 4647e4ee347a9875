"""How long build() takes: one deployment per backend and mode, 1,000 different ones, and `tandem render` cold."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tandem.api.load import parse_resource
from tandem.manifests import Cluster, build
from tandem.manifests.yaml_out import to_yaml
from tandem.rendering.library import load_library

ROOT = Path(__file__).parents[2]
REPEATS = 200
BACKENDS = ("torch", "vllm", "sglang", "trtllm")


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


def milliseconds(work: Any) -> float:
    """The time of one call."""
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1000


def main() -> None:
    """Prints the figures as one line of JSON."""
    began = time.perf_counter()
    library = load_library()
    result: dict[str, Any] = {"load_library_ms": round((time.perf_counter() - began) * 1000, 2)}
    cluster = Cluster(
        library=library, router_image="tandem-operator:1", images={name: f"{name}:1" for name in BACKENDS}
    )
    for backend in BACKENDS:
        for mode in ("agg", "disagg"):
            one = deployment("qwen", backend, mode)
            times = [milliseconds(lambda d=one: build(d, cluster=cluster)) for _ in range(REPEATS)]
            texts = [milliseconds(lambda d=one: to_yaml(build(d, cluster=cluster))) for _ in range(REPEATS // 4)]
            result[f"build_{backend}_{mode}_ms"] = round(statistics.median(times), 3)
            result[f"build_and_yaml_{backend}_{mode}_ms"] = round(statistics.median(texts), 3)
    many = [deployment(f"d{n}", "torch", "disagg", maxBatchSize=1 + n % 64) for n in range(1000)]
    result["build_1000_different_s"] = round(milliseconds(lambda: [build(d, cluster=cluster) for d in many]) / 1000, 3)
    example = ROOT / "docs" / "examples" / "torch-disagg.yaml"
    command = [str(Path(sys.executable).parent / "tandem"), "render", "-f", str(example)]
    colds = [milliseconds(lambda: subprocess.run(command, check=True, capture_output=True)) for _ in range(5)]
    result["tandem_render_cold_ms"] = round(statistics.median(colds), 1)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
