"""Where the API server is and who we are: credentials of a pod, or a kubeconfig; TLS; one connection pool for all."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
from kubernetes.aio import client as kube_client
from kubernetes.aio import config as kube_config
from kubernetes.aio.config.config_exception import ConfigException
from kubernetes.aio.config.kube_config import refresh_token

from tandem.api.problems import Problem
from tandem.kube.depth import ShallowResponse
from tandem.kube.errors import CredentialsError
from tandem.kube.kubeconfig import check_kubeconfig

USER_AGENT = "tandem-operator"
POOL_SIZE = 64
# Seconds before a stream that is refused is asked for again, by HTTP status. Kopf itself would log in anew without end
# after 401, and after 429 obey whatever Retry-After says: a day, too, or a date, which it cannot read.
STREAM_PAUSES = {401: 5.0, 429: 1.0}
LONGEST_PAUSE = 30.0
# Seconds between two beginnings of the same watch: one that ends at once would begin again without pause.
WATCH_PAUSE = 1.0

Handler = Callable[[aiohttp.ClientRequest], Awaitable[aiohttp.ClientResponse]]


class Connection:
    """An open connection to one API server. Tokens of pods are read again every minute: they expire."""

    def __init__(self, configuration: Any) -> None:
        self._configuration = configuration
        self.api: Any = kube_client.ApiClient(configuration)

    @property
    def server(self) -> str:
        """The API server's address without a trailing slash."""
        return str(self._configuration.host).rstrip("/")

    async def headers(self) -> dict[str, str]:
        """Who asks: user agent, and the authorization as it is now (client certificates need none)."""
        found = {"User-Agent": USER_AGENT}
        token = await self._configuration.get_api_key_with_prefix("BearerToken", alias="authorization")
        if token:
            found["Authorization"] = token
        return found

    def stream_session(self) -> aiohttp.ClientSession:
        """A session for long-lived streams, with an unlimited pool of its own; the caller closes it."""
        rest = self.api.rest_client
        began: dict[str, float] = {}

        async def authorize(
            request: aiohttp.ClientRequest,
            handler: Callable[[aiohttp.ClientRequest], Awaitable[aiohttp.ClientResponse]],
        ) -> aiohttp.ClientResponse:
            if request.url.query.get("watch") == "true":
                await _space_out(began, request.url.path)
            request.headers.update(await self.headers())
            response = await handler(request)
            if response.status in STREAM_PAUSES:
                response.close()
                await asyncio.sleep(_pause(response))
                raise aiohttp.ClientConnectionError(f"the API server answers {response.status} {response.reason}")
            return response

        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=rest.ssl_context),
            middlewares=(authorize,),
            headers={"User-Agent": USER_AGENT},
            proxy=rest.proxy,
            read_bufsize=2**21,
            response_class=ShallowResponse,
        )


async def _space_out(began: dict[str, float], path: str) -> None:
    """Returns when a watch of `path` may begin, and takes that down in `began`."""
    now = asyncio.get_running_loop().time
    await asyncio.sleep(max(0.0, began.get(path, -WATCH_PAUSE) + WATCH_PAUSE - now()))
    began[path] = now()


def _pause(response: aiohttp.ClientResponse) -> float:
    """Seconds to wait after an answer that is no stream."""
    asked, least = response.headers.get("Retry-After", ""), STREAM_PAUSES[response.status]
    return min(max(float(asked), least), LONGEST_PAUSE) if asked.isdecimal() else least


@contextlib.asynccontextmanager
async def connect(kubeconfig: Path | None = None) -> AsyncIterator[Connection]:
    """A connection with the first credentials found: `kubeconfig`, $KUBECONFIG, the pod's own, ~/.kube/config.

    Raises CredentialsError.
    """
    # The package is only partly typed.
    config: Any = kube_config
    refresh: Any = refresh_token
    configuration = kube_client.Configuration()
    configuration.connection_pool_maxsize = POOL_SIZE
    # Otherwise each request asks a thread for proxies of the environment; they are looked up once, below.
    configuration.client_session_kwargs = {"trust_env": False}
    refresher: asyncio.Task[None] | None = None
    paths = _kubeconfigs(kubeconfig)
    try:
        if not paths:
            config.load_incluster_config(client_configuration=configuration)
        else:
            check_kubeconfig(paths, named=kubeconfig is not None or bool(os.environ.get("KUBECONFIG")))
            loader = await config.load_kube_config(
                config_file=os.pathsep.join(map(str, paths)),
                client_configuration=configuration,
                persist_config=False,
            )
            refresher = asyncio.create_task(refresh(loader, configuration), name="credential plugin")
    except (ConfigException, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        where = ":".join(map(str, paths)) or "the pod's ServiceAccount"
        reason = f"no usable Kubernetes credentials: {error}"
        fix = "Correct it, or name another one with KUBECONFIG; in a pod, give it a ServiceAccount with a token."
        raise CredentialsError([Problem(where, "", reason, fix)]) from error
    configuration.proxy = configuration.proxy or _proxy_of_environment(configuration.host)
    connection = Connection(configuration)
    try:
        yield connection
    finally:
        if refresher is not None:
            refresher.cancel()
        await connection.api.close()


def _kubeconfigs(given: Path | None) -> tuple[Path, ...]:
    """The kubeconfig files to read; none in a pod that has credentials of its own."""
    if given is not None:
        return (given.expanduser(),)
    named = os.environ.get("KUBECONFIG")
    if named:
        return tuple(Path(part).expanduser() for part in named.split(os.pathsep) if part)
    return () if "KUBERNETES_SERVICE_HOST" in os.environ else (Path.home() / ".kube" / "config",)


def _proxy_of_environment(host: str) -> str | None:
    """The proxy that HTTPS_PROXY and NO_PROXY ask for on the way to the API server."""
    parts = urlsplit(host)
    proxy = getproxies().get(parts.scheme)
    return None if proxy is None or proxy_bypass(parts.hostname or "") else proxy
