"""The labels of nodes with GPUs, as they are listed and watched."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tandem.controller.nodes import GpuNodes
from tandem.kube.client import Listing
from tandem.kube.clock import SystemClock
from tandem.kube.errors import ApiError

GPU = {"nvidia.com/gpu.memory": "81559"}


def node(name: str, labels: dict[str, str]) -> dict[str, Any]:
    return {"metadata": {"name": name, "resourceVersion": "5", "labels": labels}}


class Server:
    """An API server with these nodes, whose watches never tell anything; or one that refuses."""

    def __init__(self, *nodes: dict[str, Any], error: ApiError | None = None) -> None:
        self.nodes = nodes
        self.error = error
        self.lists = 0

    async def list(self, *_: Any, **__: Any) -> Listing[dict[str, Any]]:
        self.lists += 1
        if self.error is not None:
            raise self.error
        return Listing(self.nodes, "5")

    async def watch(self, *_: Any, **__: Any) -> Any:
        await asyncio.Event().wait()
        yield


def nodes_of(server: Server, told: list[str], *, cluster_wide: bool = True) -> GpuNodes:
    return GpuNodes(server, SystemClock(), cluster_wide=cluster_wide, changed=lambda: told.append("changed"))


async def test_nodes_with_gpus_are_listed_once_and_only_when_somebody_asks():
    server, told = Server(node("a", GPU), node("b", {"pool": "b"})), []
    async with nodes_of(server, told) as nodes:
        assert server.lists == 0

        assert [await nodes.labels() for _ in range(3)] == [(GPU,)] * 3

        assert server.lists == 1
    assert told == []


async def test_labels_that_change_are_told_and_nothing_else_of_a_node():
    told: list[str] = []
    async with nodes_of(Server(node("a", GPU)), told) as nodes:
        await nodes.labels()

        nodes.changed("MODIFIED", node("a", GPU))
        nodes.changed("ADDED", node("c", {"pool": "b"}))
        assert told == []

        nodes.changed("ADDED", node("b", {**GPU, "pool": "b"}))
        nodes.changed("DELETED", node("a", GPU))
        nodes.changed("MODIFIED", node("b", {"pool": "b"}))
        assert len(told) == 3
        assert await nodes.labels() == ()

        nodes.listed(Listing((node("a", GPU),), "9"))
        nodes.listed(Listing((), "10"))
        assert len(told) == 5


@pytest.mark.parametrize("cluster_wide", [True, False])
async def test_without_the_right_nobody_waits(cluster_wide):
    server = Server(error=ApiError(403, "Forbidden", "no"))
    async with nodes_of(server, [], cluster_wide=cluster_wide) as nodes:
        assert await nodes.labels() == ()

    assert server.lists == int(cluster_wide)
