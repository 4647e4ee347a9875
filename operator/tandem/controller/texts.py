"""The ConfigMaps of users that hold rules and templates: read when needed, and again when they have changed.

They carry no label of ours. Where a deployment names one, the versions of that namespace's ConfigMaps are followed; the
contents are read of those that are named, and of no others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from types import TracebackType

from tandem.api.problems import Problem, Refused
from tandem.kube.cache import Ref
from tandem.kube.client import Client
from tandem.kube.clock import Clock
from tandem.kube.errors import ApiError
from tandem.kube.resources import CONFIG_MAP
from tandem.kube.versions import follow_versions


@dataclass(frozen=True, slots=True)
class _Known:
    """The data of a ConfigMap as of a version; None when there is none."""

    data: Mapping[str, str] | None
    version: int


class ConfigTexts:
    """File name → text of ConfigMaps, for as long as the context lasts. `changed` hears of each deployment that names
    a ConfigMap that has changed."""

    def __init__(self, client: Client, clock: Clock, *, changed: Callable[[Ref], None]) -> None:
        self._client = client
        self._clock = clock
        self._changed = changed
        self._named: dict[Ref, frozenset[str]] = {}
        self._known: dict[tuple[str, str], _Known] = {}
        self._changed_at: dict[tuple[str, str], int] = {}
        self._followers: dict[str, asyncio.Task[None]] = {}

    async def __aenter__(self) -> ConfigTexts:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        tasks = tuple(self._followers.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def names(self, owner: Ref, config_maps: Collection[str]) -> None:
        """Says which ConfigMaps of its namespace a deployment names now; what nobody names is forgotten."""
        if self._named.get(owner, frozenset()) == frozenset(config_maps):
            return
        if config_maps:
            self._named[owner] = frozenset(config_maps)
        else:
            self._named.pop(owner, None)
        wanted = self._wanted(owner.namespace)
        for memory in (self._known, self._changed_at):
            for key in [key for key in memory if key[0] == owner.namespace and key[1] not in wanted]:
                del memory[key]
        if wanted and owner.namespace not in self._followers:
            self._followers[owner.namespace] = self._follow(owner.namespace)
        elif not wanted and owner.namespace in self._followers:
            self._followers.pop(owner.namespace).cancel()

    async def read(self, namespace: str, name: str, *, path: str) -> Mapping[str, str]:
        """The data of a ConfigMap that is named; raises `Refused` when there is none. `path`: where the spec names it.

        Also raises ApiError.
        """
        key = (namespace, name)
        known = self._known.get(key)
        if known is None:
            known = await self._fetch(namespace, name, since=self._changed_at.get(key, 0))
            # What changed while it was read is read again: whoever asked is called again too.
            if known.version >= self._changed_at.get(key, 0):
                self._known[key] = known
        if known.data is None:
            reason = f"there is no such ConfigMap in namespace {namespace}"
            raise Refused([Problem(path, repr(name), reason, "Create it, or name one that exists.")])
        return known.data

    async def _fetch(self, namespace: str, name: str, *, since: int) -> _Known:
        try:
            found = await self._client.get(CONFIG_MAP, namespace, name)
        except ApiError as error:
            if error.is_not_found:
                return _Known(None, since)
            raise
        return _Known(dict(found.get("data") or {}), int(found["metadata"]["resourceVersion"]))

    def _wanted(self, namespace: str) -> set[str]:
        return {name for owner, names in self._named.items() if owner.namespace == namespace for name in names}

    def _follow(self, namespace: str) -> asyncio.Task[None]:
        following = follow_versions(
            self._client,
            self._clock,
            CONFIG_MAP,
            namespace,
            known=lambda: self._wanted(namespace),
            on_version=lambda name, version: self._changes(namespace, name, version),
        )
        return asyncio.create_task(following, name=f"ConfigMaps of {namespace}")

    def _changes(self, namespace: str, name: str, version: int) -> None:
        """Forgets a ConfigMap that is newer than what is known of it, and has those looked at that name it."""
        key = (namespace, name)
        concerned = [owner for owner, names in self._named.items() if owner.namespace == namespace and name in names]
        known = self._known.get(key)
        if not concerned or (known is not None and known.version >= version):
            return
        self._changed_at[key] = max(version, self._changed_at.get(key, 0))
        self._known.pop(key, None)
        for owner in concerned:
            self._changed(owner)
