"""The ConfigMaps of users that hold rules and templates: read when needed, and again after a while.

They carry no label of ours, so no watch shows them; the few that are named are looked up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tandem.api.problems import Problem, Refused
from tandem.kube.client import Client
from tandem.kube.clock import Clock
from tandem.kube.errors import ApiError
from tandem.kube.resources import CONFIG_MAP

FRESH_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class _Known:
    data: Mapping[str, str] | None
    read_at: float


class ConfigTexts:
    """File name → text of ConfigMaps, at most `FRESH_SECONDS` old."""

    def __init__(self, client: Client, clock: Clock) -> None:
        self._client = client
        self._clock = clock
        self._known: dict[tuple[str, str], _Known] = {}

    async def read(self, namespace: str, name: str, *, path: str) -> Mapping[str, str]:
        """The data of a ConfigMap; raises `Refused` when there is none. `path` is where the spec names it."""
        key, now = (namespace, name), self._clock.monotonic()
        known = self._known.get(key)
        if known is None or now - known.read_at >= FRESH_SECONDS:
            known = _Known(await self._fetch(namespace, name), now)
            self._known[key] = known
        if known.data is None:
            reason = f"there is no such ConfigMap in namespace {namespace}"
            raise Refused([Problem(path, repr(name), reason, "Create it, or name one that exists.")])
        return known.data

    async def _fetch(self, namespace: str, name: str) -> Mapping[str, str] | None:
        try:
            found = await self._client.get(CONFIG_MAP, namespace, name)
        except ApiError as error:
            if error.is_not_found:
                return None
            raise
        return dict(found.get("data") or {})
