"""EndpointSlices from a Kubernetes API server: the one place of the router that talks to it."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from kubernetes.aio import client, config

from tandem.gateway.discovery.follow import ApiFailed, Listing
from tandem.gateway.discovery.slices import selector

LIST_SECONDS = 15.0
PAGE_SIZE = 500
# How much longer than agreed a watch may stay open before it is taken for dead.
WATCH_SLACK_SECONDS = 15.0
SERVICE_ACCOUNT_TOKEN = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")


def in_cluster() -> bool:
    """Whether this process has a ServiceAccount's token."""
    return SERVICE_ACCOUNT_TOKEN.exists()


async def load_configuration(kubeconfig: Path | None = None) -> client.Configuration:
    """How to reach the API server: `kubeconfig` or $KUBECONFIG when given, the pod's own account, or ~/.kube/config.

    Raises ApiFailed when none of them can be used.
    """
    configuration = client.Configuration()
    explicit = str(kubeconfig) if kubeconfig else os.environ.get("KUBECONFIG")
    try:
        if not explicit and in_cluster():
            config.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
        else:
            await config.load_kube_config(  # type: ignore[no-untyped-call]
                config_file=explicit, client_configuration=configuration
            )
    except (config.ConfigException, OSError, ValueError) as error:
        raise ApiFailed(0, f"no usable configuration for the API server: {error}") from None
    return configuration


class KubernetesSlices:
    """The slices of one deployment in one namespace.

    A configuration is loaded at the first use, and again after a failure: certificates and addresses change.
    """

    def __init__(self, *, namespace: str, deployment: str, kubeconfig: Path | None = None) -> None:
        self._namespace = namespace
        self._selector = selector(deployment)
        self._kubeconfig = kubeconfig
        self._client: client.ApiClient | None = None

    async def close(self) -> None:
        """Closes the connections."""
        if self._client is not None:
            opened, self._client = self._client, None
            await opened.close()  # type: ignore[no-untyped-call]

    async def list(self) -> Listing:
        """All slices, page by page, as of now."""
        items: list[dict[str, Any]] = []
        token: str | None = None
        while True:
            async with self._request(seconds=LIST_SECONDS, limit=PAGE_SIZE, _continue=token) as response:
                page = await _json(response)
            items += page.get("items") or []
            metadata = page["metadata"]
            token = metadata.get("continue") or None
            if token is None:
                return Listing(items, metadata["resourceVersion"])

    async def watch(self, *, version: str, seconds: int) -> AsyncGenerator[bytes, None]:
        """Event lines from `version` on, with bookmarks."""
        async with self._request(
            seconds=seconds + WATCH_SLACK_SECONDS,
            watch=True,
            resource_version=version,
            allow_watch_bookmarks=True,
            timeout_seconds=seconds,
        ) as response:
            async for line in response.content:
                # A line without its end was cut off; the next watch brings it again.
                if line.endswith(b"\n"):
                    yield line

    @asynccontextmanager
    async def _request(self, *, seconds: float, **parameters: Any) -> AsyncIterator[aiohttp.ClientResponse]:
        """An answer with status 200; whatever goes wrong, also while it is being read, becomes ApiFailed."""
        response: aiohttp.ClientResponse | None = None
        try:
            api = client.DiscoveryV1Api(await self._connected())
            response = await api.list_namespaced_endpoint_slice_without_preload_content(
                self._namespace, label_selector=self._selector, _request_timeout=seconds, **parameters
            )
            assert response is not None  # noqa: S101 - it returns or raises
            if response.status != 200:
                raise ApiFailed(response.status, await _reason(response))
            yield response
        except TimeoutError:
            await self.close()
            raise ApiFailed(0, "the API server did not answer in time") from None
        except client.ApiException as error:
            raise ApiFailed(int(error.status or 0), str(error.reason)) from None
        except (aiohttp.ClientError, OSError, ValueError, KeyError, TypeError) as error:
            await self.close()
            raise ApiFailed(0, f"{type(error).__name__}: {error}") from None
        finally:
            if response is not None:
                response.close()

    async def _connected(self) -> client.ApiClient:
        if self._client is None:
            self._client = client.ApiClient(await load_configuration(self._kubeconfig))
            self._client.user_agent = "tandem-router"
        return self._client


async def _json(response: aiohttp.ClientResponse) -> dict[str, Any]:
    value = json.loads(await response.read())
    if not isinstance(value, dict):
        raise TypeError("the API server's answer is not an object")
    return value


async def _reason(response: aiohttp.ClientResponse) -> str:
    """The message of a Status; with advice where the cause is known."""
    text = (await response.text())[:2000]
    try:
        message = str(json.loads(text).get("message") or text)
    except (ValueError, AttributeError):
        message = text
    if response.status in {401, 403}:
        message += " (the router's ServiceAccount needs get, list and watch on endpointslices.discovery.k8s.io)"
    return message
