"""Peak memory of the bundled server on the CPU against what the blueprint predicts, for three sizes of model.

`of_weights_and_kv` is the peak without what the imports take, divided by weights and KV in use; bfloat16 is made from
weights saved in float32. `TANDEM_BENCH_SIZES` (default: all) chooses sizes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tandem.blueprint.ask import load_of, served
from tandem.blueprint.fits import CPU_RESERVE, Room, judge
from tandem.blueprint.split import ONE
from tandem.cli.model_files import read_blueprint
from tests.bench import serve

BATCH = 4
PROMPT = 240
NEW_TOKENS = 16
STEP = 512
SHAPES = {
    "58M": {},
    "260M": {"hidden_size": 1024, "intermediate_size": 3584, "num_hidden_layers": 13},
    "710M": {"hidden_size": 1536, "intermediate_size": 5120, "num_hidden_layers": 20, "num_attention_heads": 12},
}


IMPORTS = "import tandem_serve.server, tandem_serve.backend; print(open('/proc/self/status').read())"


def peak(status: str) -> int:
    """The most resident memory that a process ever had, in bytes, from its /proc/.../status."""
    for line in status.splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("no VmHWM")


def peak_of(process: int) -> int:
    """The same of a process that runs."""
    return peak(Path(f"/proc/{process}/status").read_text())


async def measured(model: Path, dtype: str) -> int:
    """The peak of a server that answers `BATCH` prompts at once."""
    source = random.Random(0)
    async with running(model, dtype) as (server, process):
        loads = [serve.Load(prompt=serve.text(source, PROMPT), new_tokens=NEW_TOKENS) for _ in range(BATCH)]
        await asyncio.gather(*(server.complete(load) for load in loads))
        return peak_of(process)


@contextlib.asynccontextmanager
async def running(model: Path, dtype: str) -> Any:
    """The bundled server, and the number of its process."""
    before = children()
    async with serve.running("tandem", model, dtype) as server:
        (process,) = children() - before
        yield server, process


def children() -> set[int]:
    """The processes that this one started."""
    tasks = Path("/proc/self/task").glob("*/children")
    return {int(number) for task in tasks for number in task.read_text().split()}


def predicted(model: Path) -> dict[str, int]:
    """The parts that the blueprint foretells."""
    blueprint = served(read_blueprint(str(model)), "torch", gpu=False)
    asked = {"max_batch_size": BATCH, "max_seq_len": PROMPT + NEW_TOKENS, "max_num_tokens": STEP}
    room = Room(memory=2**40, usable=1.0, reserve=CPU_RESERVE, gpu=False)
    parts = judge(blueprint, load_of("torch", asked, blueprint, ONE), ONE, room).parts
    return {"weights": parts.weights, "kv": parts.kv, "activation": parts.activation, "reserve": parts.reserve}


def main() -> None:
    """Prints the figures as one line of JSON."""
    result: dict[str, Any] = {}
    shape = dict(serve.SHAPE)
    done = subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, text=True, check=True)
    imports = peak(done.stdout)
    wanted = os.environ.get("TANDEM_BENCH_SIZES", ",".join(SHAPES)).split(",")
    for name, changed in SHAPES.items():
        if name not in wanted:
            continue
        serve.SHAPE.update({**shape, **changed})
        directory = Path(tempfile.mkdtemp(prefix="tandem-bench-memory-"))
        try:
            serve.save_model(directory / "model")
            parts = predicted(directory / "model")
            found = asyncio.run(measured(directory / "model", "float32"))
            half = asyncio.run(measured(directory / "model", "bfloat16"))
        finally:
            shutil.rmtree(directory)
        total = sum(parts.values())
        result[name] = {
            **parts,
            "predicted": total,
            "measured": found,
            "off_percent": round(100 * (total / found - 1), 1),
            "imports": imports,
            "of_weights_and_kv": {
                "float32": round((found - imports) / (parts["weights"] + parts["kv"]), 2),
                "bfloat16": round(2 * (half - imports) / (parts["weights"] + parts["kv"]), 2),
            },
        }
        print(name, result[name], file=sys.stderr)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
