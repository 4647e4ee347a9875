"""EndpointSlices from a Kubernetes API server: the one place of the router that talks to it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any

from tandem.gateway.discovery.follow import ApiFailed, Listing
from tandem.gateway.discovery.slices import selector
from tandem.kube.client import Client
from tandem.kube.connection import connect
from tandem.kube.errors import UNREACHABLE, ApiError, CredentialsError
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
        self._client: Client | None = None
        self._open = AsyncExitStack()

    async def close(self) -> None:
        """Closes the connections; the next use opens new ones."""
        self._client = None
        await self._open.aclose()

    async def list(self) -> Listing:
        """All slices as of now."""
        client = await self._connected()
        with _failures():
            found = await client.list(ENDPOINT_SLICE, self._namespace, label_selector=self._selector)
            return Listing(list(found.items), found.resource_version)

    async def watch(self, *, version: str, seconds: int) -> AsyncGenerator[tuple[str, dict[str, Any]], None]:
        """The events after `version`, with bookmarks."""
        client = await self._connected()
        with _failures():
            async for event in client.watch(
                ENDPOINT_SLICE,
                self._namespace,
                resource_version=version,
                label_selector=self._selector,
                timeout_seconds=seconds,
            ):
                yield event

    async def recover(self, error: ApiFailed) -> None:
        """Drops a connection that may be the cause: addresses, certificates and tokens change."""
        if error.status in {UNREACHABLE, 401}:
            await self.close()

    async def _connected(self) -> Client:
        if self._client is None:
            try:
                connection = await self._open.enter_async_context(connect(self._kubeconfig))
            except CredentialsError as error:
                raise ApiFailed(UNREACHABLE, str(error)) from None
            self._client = Client(connection, timeout=LIST_SECONDS)
        return self._client


@contextmanager
def _failures() -> Iterator[None]:
    """What the client raises, as ApiFailed."""
    try:
        yield
    except ApiError as error:
        raise ApiFailed(error.status, f"{error}{RIGHTS if error.status in {401, 403} else ''}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise ApiFailed(UNREACHABLE, f"the answer was cut off or is no API server's: {error!r}") from None
