"""What a backend adds to its workers' pods."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tandem.rendering.values import RoleRendering


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One of the pods or processes that make up a worker on several nodes.

    `rank` counts them from 0, the leader, which is reached by clients; `address` and `port` are where all of them meet.
    Each may refer to variables, as `$(NAME)`.
    """

    nodes: str
    rank: str
    address: str
    port: int
    leads: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendPods:
    """The backend's part of a worker's pod.

    `env(mode)` are environment variables (after POD_IP), `gpus(role)` how many GPUs a worker needs, `shared_memory`
    whether its processes talk over /dev/shm, `liveness_path` which address tells that the process is alive.
    `across_nodes` are the arguments that make one of several processes a part of a worker; they meet at a port that is
    `meeting_port` unless it is taken. `watches_loading`: the server ends by itself when its loading stalls.
    """

    env: Callable[[str], Mapping[str, str]]
    gpus: Callable[[RoleRendering], int]
    shared_memory: bool
    liveness_path: str
    ports: Callable[[RoleRendering, str], Mapping[str, range]] = lambda _role, _mode: {}
    across_nodes: Callable[[Part], tuple[str, ...]] = lambda _part: ()
    meeting_port: int = 0
    not_across: Callable[[RoleRendering], str] = lambda _role: "this backend runs on one node"
    watches_loading: bool = False

    def env_list(self, mode: str) -> list[dict[str, Any]]:
        """`env` as a container has it."""
        return [{"name": name, "value": value} for name, value in self.env(mode).items()]


def size(role: RoleRendering, name: str) -> int:
    """The value of a parameter that counts GPUs; 1 when nobody says."""
    found = next((item.value for item in role.parameters if item.name == name), 1)
    return found if isinstance(found, int) else 1


def port(role: RoleRendering, name: str, default: int) -> int:
    """The port that a parameter gives."""
    found = next((item.value for item in role.parameters if item.name == name), default)
    return found if isinstance(found, int) else default
