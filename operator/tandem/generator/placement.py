"""Which worker runs on which machines, on which GPUs. Pure arithmetic.

Greedy: prefill workers fill the machines first, then decode workers what is left, then further machines. A machine
gives its first GPUs to prefill workers, so that decode workers begin at (prefill workers on it) x (GPUs of each). A
worker of several machines takes the first ones that have room for its parts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tandem.api.deployment import RoleName


@dataclass(frozen=True, slots=True)
class Pool:
    """The workers of a role: how many, GPUs of each on a machine (0 for workers that need none), and on how many
    machines each runs."""

    role: RoleName
    workers: int
    gpus: int
    machines: int = 1


@dataclass(frozen=True, slots=True)
class Place:
    """One worker, or its part on one of its `machines`: the `rank`-th of these. `index` counts the workers of its role
    over all machines, `gpus` are numbers on its machine."""

    role: RoleName
    index: int
    gpus: tuple[int, ...]
    machines: tuple[int, ...]
    rank: int = 0

    @property
    def name(self) -> str:
        """The worker's name."""
        return f"{self.role}-{self.index}"


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
        """Number of workers that are reached here, by role."""
        found: dict[RoleName, int] = {}
        for place in self.places:
            if place.rank == 0:
                found[place.role] = found.get(place.role, 0) + 1
        return found


def place(pools: tuple[Pool, ...], *, gpus_per_node: int) -> tuple[Node, ...]:
    """The machines that the pools need, at least one. No pool has more GPUs on a machine than `gpus_per_node`."""
    nodes: list[list[Place]] = [[]]
    used = [0]
    for pool in pools:
        at = 0
        for index in range(pool.workers):
            machines: list[int] = []
            while len(machines) < pool.machines:
                if at == len(nodes):
                    nodes.append([])
                    used.append(0)
                if used[at] + pool.gpus > gpus_per_node or at in machines:
                    at += 1
                else:
                    machines.append(at)
            for rank, machine in enumerate(machines):
                gpus = tuple(range(used[machine], used[machine] + pool.gpus))
                nodes[machine].append(Place(pool.role, index, gpus, tuple(machines), rank))
                used[machine] += pool.gpus
            at = machines[0]
    return tuple(Node(index, tuple(places)) for index, places in enumerate(nodes))
