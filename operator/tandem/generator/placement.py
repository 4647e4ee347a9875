"""Which worker runs on which machine, on which GPUs. Pure arithmetic.

Greedy: prefill workers fill the machines first, then decode workers what is left, then further machines. A machine
gives its first GPUs to prefill workers, so that decode workers begin at (prefill workers on it) x (GPUs of each).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tandem.api.deployment import RoleName
from tandem.api.problems import refuse

GPUS_PER_NODE = 8


@dataclass(frozen=True, slots=True)
class Pool:
    """The workers of a role: how many, and GPUs of each (0 for workers that need none)."""

    role: RoleName
    workers: int
    gpus: int


@dataclass(frozen=True, slots=True)
class Place:
    """One worker: `index` counts the workers of its role over all machines, `gpus` are numbers on its machine."""

    role: RoleName
    index: int
    gpus: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Node:
    """One machine. The frontend is on the first only."""

    index: int
    places: tuple[Place, ...]

    @property
    def has_frontend(self) -> bool:
        """Whether clients connect here."""
        return self.index == 0

    def counts(self) -> Mapping[RoleName, int]:
        """Number of workers by role."""
        found: dict[RoleName, int] = {}
        for place in self.places:
            found[place.role] = found.get(place.role, 0) + 1
        return found


def place(pools: tuple[Pool, ...], *, gpus_per_node: int = GPUS_PER_NODE) -> tuple[Node, ...]:
    """The machines that the pools need, at least one; raises `Refused` for a worker that no machine can hold."""
    if not 1 <= gpus_per_node <= 1024:
        key = "NodeConfig.num_gpus_per_node"
        raise refuse(key, gpus_per_node, "a machine has 1 to 1024 GPUs here", "Correct it.")
    nodes: list[list[Place]] = [[]]
    used = [0]
    for pool in pools:
        if pool.gpus > gpus_per_node:
            reason = f"a worker of {pool.gpus} GPUs does not fit on a machine of {gpus_per_node}"
            fix = "Make tensor_parallel_size smaller, or set NodeConfig.num_gpus_per_node to what the machines have."
            raise refuse(f"Workers.{pool.role}", pool.gpus, reason, fix)
        at = 0
        for index in range(pool.workers):
            while used[at] + pool.gpus > gpus_per_node:
                at += 1
                if at == len(nodes):
                    nodes.append([])
                    used.append(0)
            nodes[at].append(Place(pool.role, index, tuple(range(used[at], used[at] + pool.gpus))))
            used[at] += pool.gpus
    return tuple(Node(index, tuple(places)) for index, places in enumerate(nodes))
