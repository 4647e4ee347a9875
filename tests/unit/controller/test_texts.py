"""ConfigMaps of users are read once, and again when they have changed; whoever names one hears of it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tandem.api.problems import Refused
from tandem.controller.texts import ConfigTexts
from tandem.kube.cache import Ref
from tandem.kube.client import Listing
from tandem.kube.errors import ApiError
from tests.unit.kube.fakes import FakeClock, settle

CHAT, OTHER, ELSEWHERE = (
    Ref("ModelDeployment", ns, name) for ns, name in (("ns", "chat"), ("ns", "other"), ("far", "chat"))
)


class Server:
    """ConfigMaps with versions, and watches of them that a test feeds."""

    def __init__(self) -> None:
        self.version = 10
        self.maps: dict[tuple[str, str], tuple[int, str]] = {}
        self.reads: list[str] = []
        self.watched: dict[str, asyncio.Queue[Any]] = {}
        self.answering = asyncio.Event()
        self.answering.set()
        self.news: list[Ref] = []

    def texts(self) -> ConfigTexts:
        client: Any = self
        return ConfigTexts(client, FakeClock(), changed=self.news.append)

    def set(self, text: str | None, *, namespace: str = "ns", name: str = "rules") -> None:
        """Creates, changes or (None) deletes one."""
        self.version += 1
        if text is None:
            del self.maps[namespace, name]
        else:
            self.maps[namespace, name] = (self.version, text)
        if namespace in self.watched:
            self.watched[namespace].put_nowait(("MODIFIED" if text else "DELETED", self._meta(name, self.version)))

    async def get(self, _resource: Any, namespace: str, name: str) -> dict[str, Any]:
        self.reads.append(name)
        found = self.maps.get((namespace, name))
        await self.answering.wait()
        if found is None:
            raise ApiError(404, "NotFound", "not found")
        return {**self._meta(name, found[0]), "data": {"torch.rule": found[1]}}

    async def list(self, _resource: Any, namespace: str, **_: Any) -> Listing:
        self.watched[namespace] = asyncio.Queue()
        found = [self._meta(name, version) for (ns, name), (version, _) in self.maps.items() if ns == namespace]
        return Listing(tuple(found), str(self.version))

    async def watch(self, _resource: Any, namespace: str, **_: Any) -> Any:
        try:
            while True:
                yield await self.watched[namespace].get()
        finally:
            self.watched.pop(namespace, None)

    def _meta(self, name: str, version: int) -> dict[str, Any]:
        return {"metadata": {"name": name, "resourceVersion": str(version)}}


async def read(texts: ConfigTexts, owner: Ref = CHAT, name: str = "rules") -> str:
    texts.names(owner, [name])
    data = await texts.read(owner.namespace, name, path="spec.rules.configMapRef.name")
    await settle()
    return data["torch.rule"]


async def test_a_config_map_is_read_once_and_again_when_it_has_changed() -> None:
    server = Server()
    server.set("one")
    async with server.texts() as texts:
        assert [await read(texts) for _ in range(3)] == ["one"] * 3
        assert server.reads == ["rules"]
        server.set("two")
        await settle()
        assert server.news[-1:] == [CHAT]
        assert await read(texts) == "two"
        assert server.reads == ["rules", "rules"]


async def test_all_that_name_it_hear_of_a_change_and_nobody_else() -> None:
    server = Server()
    server.set("one")
    server.set("one", name="own")
    server.set("one", namespace="far")
    async with server.texts() as texts:
        await read(texts)
        await read(texts, OTHER)
        await read(texts, ELSEWHERE)
        third = Ref("ModelDeployment", "ns", "third")
        await read(texts, third, "own")
        server.news.clear()
        server.set("two")
        server.set("new", name="nobody-names-it")
        await settle()
        assert sorted(server.news) == [CHAT, OTHER]


async def test_one_that_is_not_there_is_refused_until_it_comes_and_again_when_it_goes() -> None:
    server = Server()
    async with server.texts() as texts:
        for text in ("one", "two"):
            with pytest.raises(Refused, match=r"spec.rules.configMapRef.name.*no such ConfigMap in namespace ns"):
                await read(texts)
            await settle()
            server.set(text)
            await settle()
            assert await read(texts) == text
            server.set(None)
            await settle()


async def test_a_change_while_it_is_read_is_not_lost() -> None:
    server = Server()
    server.set("one")
    async with server.texts() as texts:
        await read(texts, OTHER, "rules")
        server.set("two")
        await settle()
        server.answering.clear()
        reading = asyncio.create_task(read(texts))
        await settle()
        server.set("three")
        await settle()
        server.news.clear()
        server.answering.set()
        assert await reading == "two", "what was asked for"
        assert await read(texts) == "three"


async def test_namespaces_are_followed_only_while_somebody_names_a_config_map_there() -> None:
    server = Server()
    server.set("one")
    async with server.texts() as texts:
        await read(texts)
        await read(texts, OTHER)
        assert set(server.watched) == {"ns"}
        texts.names(CHAT, ())
        await settle()
        assert set(server.watched) == {"ns"}
        texts.names(OTHER, ())
        await settle()
        assert server.watched == {}
        assert await read(texts) == "one"
        assert set(server.watched) == {"ns"}
    assert server.watched == {}
