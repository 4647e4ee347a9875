"""`make bench`: runs each benchmark in a process of its own, one after the other; keeps JSON under build/bench/.

A benchmark is a module of this package with a `main()` that prints one JSON object as the last line of its output.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
OUT = ROOT / "build" / "bench"
NOT_BENCHMARKS = {"__init__", "__main__"}


def names() -> list[str]:
    """The benchmarks of this package, by module name."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem not in NOT_BENCHMARKS)


def run(name: str) -> dict[str, object] | None:
    """Runs one benchmark; its result, or None when it failed (its error output has been shown)."""
    print(f"== {name}", flush=True)
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", f"tests.bench.{name}"], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False
    )
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        print(f"{name}: failed with exit status {done.returncode}\n{done.stdout}", file=sys.stderr)
        return None
    result: dict[str, object] = json.loads(lines[-1])
    result["benchmark_seconds"] = round(time.monotonic() - began, 1)
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / f"{name}.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2), flush=True)
    return result


def main() -> int:
    """Runs the benchmarks named on the command line, or all."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("name", nargs="*", help=f"which ones: {', '.join(names())} (default: all)")
    chosen = parser.parse_args().name or names()
    unknown = [name for name in chosen if name not in names()]
    if unknown:
        parser.error(f"unknown benchmark {unknown[0]!r}; known: {', '.join(names())}")
    results = [run(name) for name in chosen]
    return 1 if None in results else 0


if __name__ == "__main__":
    sys.exit(main())
