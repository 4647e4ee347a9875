"""Run by the interpreter of aiconfigurator: the same inputs through its generator.

Reads {"input": …, "backends": […]} from standard input and prints the figures as one line of JSON. With
`--once INPUT BACKEND` it only renders once, which is what a command does.
"""

from __future__ import annotations

import copy
import importlib.metadata
import json
import logging
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

REPEATS = 30


def median_ms(work: Callable[[], object]) -> float:
    """The median CPU time of a call, after one that warms up."""
    work()
    times = []
    for _ in range(REPEATS):
        began = time.process_time()
        work()
        times.append((time.process_time() - began) * 1000)
    return round(statistics.median(times), 3)


def measured(given: dict[str, Any], backend: str) -> dict[str, Any]:
    """Times of normalising and of rendering, or the error."""
    from aiconfigurator.generator.api import generate_backend_artifacts, generate_config_from_input_dict

    def normalise() -> dict[str, Any]:
        found: dict[str, Any] = generate_config_from_input_dict(copy.deepcopy(given), backend=backend)
        return found

    try:
        params = normalise()
        # Its renderer changes what it is given.
        return {
            "normalise_ms": median_ms(normalise),
            "artifacts_ms": median_ms(lambda: generate_backend_artifacts(copy.deepcopy(params), backend)),
        }
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


def main() -> None:
    """Measures, or renders once."""
    logging.disable()
    if sys.argv[1:2] == ["--once"]:
        from aiconfigurator.generator.api import generate_backend_artifacts, generate_config_from_input_dict

        params = generate_config_from_input_dict(json.loads(sys.argv[2]), backend=sys.argv[3])
        print(json.dumps(generate_backend_artifacts(params, sys.argv[3])))
        return
    asked = json.load(sys.stdin)
    found = {backend: measured(asked["input"], backend) for backend in asked["backends"]}
    print(json.dumps({"version": importlib.metadata.version("aiconfigurator"), **found}))


if __name__ == "__main__":
    main()
