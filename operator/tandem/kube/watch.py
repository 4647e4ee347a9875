"""Kopf as the watch runtime of our own kinds: its `on.event` handlers fill the cache and tell the controller."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping
from typing import Any

import kopf

from tandem.kube.cache import Cache, OnChange, entry_of
from tandem.kube.connection import Connection
from tandem.kube.discovery import Scope
from tandem.kube.resources import OWN_KINDS, Resource

logger = logging.getLogger(__name__)

OnRelist = Callable[[Resource], None]
"""Told when a watch has started over: deletions in between were not announced."""


class Watcher:
    """Watches of our own kinds in a scope, until stopped. One instance is for one run."""

    def __init__(
        self, connection: Connection, cache: Cache, scope: Scope, *, on_change: OnChange, on_relist: OnRelist
    ) -> None:
        self._started = asyncio.Event()
        self._connection = connection
        self._cache = cache
        self._scope = scope
        self._on_change = on_change
        self._on_relist = on_relist
        self._stop = asyncio.Event()

    async def run(self) -> None:
        """Watches until `stop`; raises when a watch fails for good."""
        namespaces: Collection[str] = [name for name in self._scope if name is not None]
        # Left to itself Kopf asks for the user's name, which a container's user need not have.
        identity: Any = "tandem"
        await kopf.operator(
            registry=self._registry(),
            settings=_settings(),
            clusterwide=not namespaces,
            namespaces=namespaces,
            standalone=True,
            identity=identity,
            stop_flag=self._stop,
            ready_flag=self._started,
        )

    async def started(self) -> None:
        """Returns when the watches have begun. From then on signals go to Kopf, unless the caller takes them back."""
        await self._started.wait()

    def stop(self) -> None:
        """Ends `run` gracefully."""
        self._stop.set()

    def _registry(self) -> kopf.OperatorRegistry:
        registry = kopf.OperatorRegistry()

        @kopf.on.login(registry=registry)
        async def login(**_: Any) -> kopf.AiohttpSession:
            return kopf.AiohttpSession(
                server=self._connection.server, aiohttp_session=self._connection.stream_session()
            )

        for resource in OWN_KINDS:
            register = kopf.on.event(
                resource.group, resource.version, resource.plural, registry=registry, id=resource.plural, param=resource
            )
            handler: Any = self._receive
            register(handler)
        return registry

    async def _receive(self, event: Mapping[str, Any], param: Resource, **_: Any) -> None:
        """Never waits and never raises: Kopf only logs what a handler raises."""
        try:
            entry = entry_of(param, event["object"])
            self._cache.take(entry, gone=event["type"] == "DELETED", tell=self._on_change)
            if event["type"] is None:
                self._on_relist(param)
        except Exception:
            logger.exception("a %s event was not understood", param)


class _NoDiffBase(kopf.DiffBaseStorage):
    """Stores nothing: no handler asks what has changed, so nothing must be remembered in annotations."""

    def build(self, *, body: Any, extra_fields: Any = None) -> Any:  # noqa: ARG002
        return {}

    def fetch(self, *, body: Any) -> Any:  # noqa: ARG002
        return None

    def store(self, **_: Any) -> None:
        return None


class _NoProgress(kopf.ProgressStorage):
    """Stores nothing: there are no handlers that are retried."""

    def fetch(self, **_: Any) -> Any:
        return None

    def store(self, **_: Any) -> None:
        return None

    def purge(self, **_: Any) -> None:
        return None

    def touch(self, **_: Any) -> None:
        return None

    def clear(self, *, essence: Any) -> Any:
        return essence


def _settings() -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.persistence.diffbase_storage = _NoDiffBase()
    settings.persistence.progress_storage = _NoProgress()
    settings.posting.enabled = False
    settings.peering.standalone = True
    # CRDs and namespaces are never watched: a namespaced operator may not, and CRDs are checked before.
    settings.scanning.disabled = True
    # A page is in memory as a whole, parsed, and an object may take more than a megabyte: 500 of them took 700 MB.
    settings.watching.chunk_size = 25
    settings.watching.connect_timeout = 10
    settings.watching.reconnect_backoff = 1.0
    settings.networking.request_timeout = 30
    settings.networking.connect_timeout = 10
    # An object's worker task is kept this long after its last event: short, or memory grows with every burst.
    settings.queueing.idle_timeout = 0.5
    settings.queueing.exit_timeout = 1.0
    settings.execution.max_workers = 1
    return settings
