"""EndpointSlices from a Kubernetes API server: the one place of the router that talks to it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import AsyncExitStack, aclosing, contextmanager
from pathlib import Path
from typing import Any

from tandem.gateway.discovery.slices import selector
from tandem.kube.client import Client, Listing
from tandem.kube.connection import connect
from tandem.kube.errors import UNREACHABLE, ApiError, CredentialsError
from tandem.kube.follow import Event, KindSource
from tandem.kube.resources import Resource

ENDPOINT_SLICE = Resource("EndpointSlice", "discovery.k8s.io/v1", "endpointslices")
# A list is small, and whoever waits for it is not ready meanwhile.
LIST_SECONDS = 15.0
RIGHTS = "; the router's ServiceAccount needs get, list and watch on endpointslices.discovery.k8s.io in its namespace"


class KubernetesSlices:
    """The slices of one deployment in one namespace.

    Credentials are those of `kubeconfig`, $KUBECONFIG, the pod, or ~/.kube/config. They are loaded at the first use,
    and again after the API server could not be reached or did not know us.
    """

    def __init__(self, *, namespace: str, deployment: str, kubeconfig: Path | None = None) -> None:
        self._namespace = namespace
        self._selector = selector(deployment)
        self._kubeconfig = kubeconfig
        self._source: KindSource | None = None
        self._open = AsyncExitStack()

    async def close(self) -> None:
        """Closes the connections; the next use opens new ones."""
        self._source = None
        await self._open.aclose()

    async def list(self) -> Listing[dict[str, Any]]:
        """All slices as of now."""
        with _rights_told():
            return await (await self._slices()).list()

    async def watch(self, *, version: str, seconds: int) -> AsyncGenerator[Event, None]:
        """The events after `version`, with bookmarks."""
        with _rights_told():
            async with aclosing((await self._slices()).watch(version=version, seconds=seconds)) as events:
                async for event in events:
                    yield event

    async def recover(self, error: ApiError) -> None:
        """Drops a connection that may be the cause: addresses, certificates and tokens change."""
        if error.status in {UNREACHABLE, 401}:
            await self.close()

    async def _slices(self) -> KindSource:
        if self._source is None:
            try:
                connection = await self._open.enter_async_context(connect(self._kubeconfig))
            except CredentialsError as error:
                raise ApiError(UNREACHABLE, "NoCredentials", str(error)) from None
            client = Client(connection, timeout=LIST_SECONDS)
            self._source = KindSource(
                client, ENDPOINT_SLICE, self._namespace, selector=self._selector, metadata_only=False
            )
        return self._source


@contextmanager
def _rights_told() -> Iterator[None]:
    """Says which rights are missing where some are."""
    try:
        yield
    except ApiError as error:
        if error.status not in {401, 403}:
            raise
        raise ApiError(error.status, error.reason, f"{error.message}{RIGHTS}") from None
