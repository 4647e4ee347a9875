"""How long a blueprint takes (the largest published configuration), and 10,000 judgements whether it fits.

In seconds of one CPU: nothing here waits, and a busy machine gives the same.
"""

from __future__ import annotations

import json
import statistics
import time

from tandem.blueprint.config import from_config
from tandem.blueprint.fits import Room, changes, judge
from tandem.blueprint.gpus import GPUS
from tandem.blueprint.memory import Load
from tandem.blueprint.split import tensor_parallel
from tests.unit.blueprint.configs import DEEPSEEK_V3, GOLDEN

REPEATS = 200
JUDGEMENTS = 10_000
SIZES = (1, 2, 4, 8)


def main() -> None:
    """Prints the figures as one line of JSON."""
    result: dict[str, float] = {}
    configs = {"deepseek_v3": DEEPSEEK_V3, **{model.name: model.config() for model in GOLDEN}}
    slowest = 0.0
    for name, config in configs.items():
        times = []
        for _ in range(REPEATS):
            began = time.process_time()
            from_config(config)
            times.append((time.process_time() - began) * 1000)
        slowest = max(slowest, statistics.median(times))
        if name == "deepseek_v3":
            result["deepseek_v3_ms"] = round(statistics.median(times), 3)
    result["slowest_of_17_ms"] = round(slowest, 3)
    models = [from_config(config) for config in configs.values()]
    rooms = [Room(memory=memory) for memory in GPUS.values()]
    asked = [
        (models[n % len(models)], Load(batch=1 + n % 64, length=1024 * (1 + n % 32), step=1024), n)
        for n in range(JUDGEMENTS)
    ]
    began = time.process_time()
    fitting = sum(
        judge(model, load, tensor_parallel(SIZES[n // 7 % 4]), rooms[n % len(rooms)]).fits for model, load, n in asked
    )
    result["judgements_10000_s"] = round(time.process_time() - began, 3)
    result["judgements_that_fit"] = fitting
    began = time.process_time()
    for model, load, n in asked[:100]:
        changes(model, load, tensor_parallel(1), rooms[n % len(rooms)])
    result["changes_ms"] = round((time.process_time() - began) * 10, 3)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
