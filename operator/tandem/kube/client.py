"""The requests that the operator makes: read, list, server-side apply, merge patch, delete. Nothing is retried here."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar
from urllib.parse import urlencode

import aiohttp

from tandem.kube.connection import Connection
from tandem.kube.depth import lines, parse
from tandem.kube.errors import UNREACHABLE, ApiError, FieldError
from tandem.kube.resources import BY_KIND, Resource

FIELD_MANAGER = "tandem"
REQUEST_TIMEOUT = 30.0
PAGE = 500
# No object has this version, so an apply that names it can only create.
NEVER_A_VERSION = "1"
# Whoever answers in the API server's place may ask for hours.
LONGEST_RETRY_AFTER = 60.0

Object = dict[str, Any]
T = TypeVar("T")


class Fence(Protocol):
    """Says whether this process may write now."""

    def check(self) -> float:
        """Seconds within which a write that starts now must have ended; raises Fenced when none may start."""


class NoFence:
    """For processes that never share their work with another."""

    def check(self) -> float:
        """See `Fence`."""
        return REQUEST_TIMEOUT


@dataclass(frozen=True, slots=True)
class Listing(Generic[T]):
    """Objects of one kind as of one moment, or what is kept of each."""

    items: tuple[T, ...]
    resource_version: str


Observer = Callable[[str, str, int, float], None]
"""Told of each request: verb, kind, HTTP status (0 when unreachable), seconds."""


class Client:
    """Requests over one connection; raises ApiError. Writes go through the fence."""

    def __init__(
        self,
        connection: Connection,
        *,
        fence: Fence | None = None,
        observer: Observer | None = None,
        timeout: float = REQUEST_TIMEOUT,
    ) -> None:
        self._connection = connection
        self._timeout = timeout
        self._fence = fence or NoFence()
        self._observer = observer

    async def get(self, resource: Resource, namespace: str, name: str) -> Object:
        """One object."""
        return await self._request("GET", resource.path(namespace, name), verb="get", kind=resource.kind)

    async def get_path(self, path: str) -> Object:
        """Any document of the API server, such as its discovery documents."""
        return await self._request("GET", path, verb="get", kind="")

    async def list(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        label_selector: str = "",
        field_selector: str = "",
        limit: int = PAGE,
        first_page: bool = False,
        metadata_only: bool = False,
    ) -> Listing[Object]:
        """The objects of a kind in one namespace or everywhere, read in pages of `limit`; all, or the first page's."""
        return await self.list_kept(
            resource,
            namespace,
            keep=lambda obj: obj,
            label_selector=label_selector,
            field_selector=field_selector,
            limit=limit,
            first_page=first_page,
            metadata_only=metadata_only,
        )

    async def list_kept(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        keep: Callable[[Object], T],
        label_selector: str = "",
        field_selector: str = "",
        limit: int = PAGE,
        first_page: bool = False,
        metadata_only: bool = False,
    ) -> Listing[T]:
        """The same, as what `keep` makes of each object: no more than a page of whole objects is held at a time."""
        items: list[T] = []
        query = {"limit": str(limit), "labelSelector": label_selector, "fieldSelector": field_selector}
        accept = "application/json"
        if metadata_only:
            accept = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
        while True:
            page = await self._request(
                "GET", resource.path(namespace), verb="list", kind=resource.kind, query=query, accept=accept
            )
            items += map(keep, page.get("items") or ())
            more = page["metadata"].get("continue")
            if not more or first_page:
                return Listing(tuple(items), page["metadata"]["resourceVersion"])
            query = {**query, "continue": more}

    async def watch(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        resource_version: str,
        label_selector: str = "",
        timeout_seconds: int = 300,
        metadata_only: bool = False,
    ) -> AsyncGenerator[tuple[str, Object], None]:
        """Events (type, object) after `resource_version`, bookmarks included, until the server ends the stream."""
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": resource_version,
            "labelSelector": label_selector,
            "timeoutSeconds": str(timeout_seconds),
        }
        accept = "application/json"
        if metadata_only:
            accept = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=timeout_seconds + 10)
        try:
            async with await self._send(
                "GET", resource.path(namespace), query=query, headers={"Accept": accept}, bounds=timeout
            ) as response:
                if response.status >= 300:
                    raise _error(response.status, response.headers, await response.read())
                async for line in lines(response.content.iter_any()):
                    event = _document(line)
                    if event["type"] == "ERROR":
                        status = event["object"]
                        raise ApiError(status.get("code", 500), status.get("reason", ""), status.get("message", ""))
                    yield event["type"], event["object"]
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise ApiError(UNREACHABLE, "Unreachable", f"the watch of {resource} broke: {error!r}") from error

    async def try_watch(
        self, resource: Resource, namespace: str | None, *, resource_version: str, label_selector: str
    ) -> None:
        """Begins a watch and ends it at once: raises where it is not allowed."""
        query = {
            "watch": "true",
            "resourceVersion": resource_version,
            "labelSelector": label_selector,
            "timeoutSeconds": str(int(self._timeout)),
        }
        bounds = aiohttp.ClientTimeout(total=self._timeout, sock_connect=10)
        try:
            async with await self._send("GET", resource.path(namespace), query=query, bounds=bounds) as response:
                if response.status >= 300:
                    raise _error(response.status, response.headers, await response.read())
                response.close()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ApiError(UNREACHABLE, "Unreachable", f"{resource} cannot be watched: {error!r}") from error

    async def apply(self, obj: Mapping[str, Any], *, uid: str | None) -> Object:
        """Server-side apply with force: `obj` is our full intent; the answer is the object as stored.

        With `uid`, only the object that has it is changed. Without, the object is only ever created: one that exists
        already, whoever's it is, is a conflict and stays as it is.
        """
        metadata = obj["metadata"]
        guard = {"uid": uid} if uid else {"resourceVersion": NEVER_A_VERSION}
        resource = BY_KIND[obj["kind"]]
        return await self._request(
            "PATCH",
            resource.path(metadata["namespace"], metadata["name"]),
            verb="apply",
            kind=resource.kind,
            query={"fieldManager": FIELD_MANAGER, "force": "true"},
            body={**obj, "metadata": {**metadata, **guard}},
            content_type="application/apply-patch+yaml",
        )

    async def merge(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        patch: Mapping[str, Any],
        *,
        uid: str,
        subresource: str = "",
    ) -> Object:
        """A JSON merge patch on exactly the object with `uid`."""
        return await self._request(
            "PATCH",
            resource.path(namespace, name, subresource),
            verb="patch",
            kind=resource.kind,
            query={"fieldManager": FIELD_MANAGER},
            body={**patch, "metadata": {**patch.get("metadata", {}), "uid": uid}},
            content_type="application/merge-patch+json",
        )

    async def delete(self, resource: Resource, namespace: str, name: str, *, uid: str) -> None:
        """Deletes exactly the object with `uid`; what depends on it goes in the background."""
        await self._request(
            "DELETE",
            resource.path(namespace, name),
            verb="delete",
            kind=resource.kind,
            body={"propagationPolicy": "Background", "preconditions": {"uid": uid}},
        )

    async def create(self, resource: Resource, obj: Mapping[str, Any]) -> Object:
        """Creates an object; a conflict when its name is taken."""
        return await self._request(
            "POST",
            resource.path(obj["metadata"]["namespace"]),
            verb="create",
            kind=resource.kind,
            query={"fieldManager": FIELD_MANAGER},
            body=obj,
        )

    async def replace(self, resource: Resource, obj: Mapping[str, Any]) -> Object:
        """Replaces an object; a conflict when it is no longer at the resourceVersion that `obj` has."""
        metadata = obj["metadata"]
        return await self._request(
            "PUT",
            resource.path(metadata["namespace"], metadata["name"]),
            verb="update",
            kind=resource.kind,
            query={"fieldManager": FIELD_MANAGER},
            body=obj,
        )

    async def _request(
        self,
        method: str,
        path: str,
        *,
        verb: str,
        kind: str,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        accept: str = "application/json",
        content_type: str = "application/json",
    ) -> Object:
        seconds = self._timeout if method == "GET" else min(self._timeout, self._fence.check())
        started, status = time.perf_counter(), UNREACHABLE
        try:
            response = await self._send(
                method,
                path,
                query=query,
                body=body,
                headers={"Accept": accept, "Content-Type": content_type},
                bounds=aiohttp.ClientTimeout(total=seconds, sock_connect=min(10.0, seconds)),
            )
            async with response:
                data = await response.read()
                status = response.status
            if status >= 300:
                raise _error(status, response.headers, data)
            return _document(data)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            reason = f"{self._connection.server} cannot be reached: {error!r}"
            raise ApiError(UNREACHABLE, "Unreachable", reason) from error
        except ValueError as error:  # something between us and it answers in its place
            reason = f"{self._connection.server} does not answer {method} {path} with JSON: {error}"
            raise ApiError(UNREACHABLE, "Unreadable", reason) from error
        finally:
            if self._observer is not None:
                self._observer(verb, kind, status, time.perf_counter() - started)

    async def _send(
        self,
        method: str,
        path: str,
        *,
        bounds: aiohttp.ClientTimeout,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> aiohttp.ClientResponse:
        shown = {key: value for key, value in (query or {}).items() if value}
        url = f"{self._connection.server}{path}{'?' + urlencode(shown) if shown else ''}"
        answer = await self._connection.api.call_api(
            method,
            url,
            header_params={**(headers or {}), **await self._connection.headers()},
            body=body,
            _request_timeout=bounds,
        )
        response: aiohttp.ClientResponse = answer.response
        return response


def _document(data: bytes) -> Object:
    """What an API server answers: an object. Raises ValueError for anything else, as proxies send it."""
    # Labels, names and reasons repeat without end: `parse` shares them, which keeps the cache small.
    document = parse(data)
    if not isinstance(document, dict):
        raise ValueError(f"an object was expected, not {data[:60]!r}")  # noqa: TRY004 - like what is no JSON at all
    return document


def _error(status: int, headers: Mapping[str, str], data: bytes) -> ApiError:
    """The API server's Status document as an error; other bodies (of proxies, say) are quoted."""
    try:
        document = json.loads(data)
    except ValueError:
        document = {}
    if not isinstance(document, dict) or document.get("kind") != "Status":
        document = {"message": data[:200].decode(errors="replace").strip()}
    details = document.get("details") or {}
    wait = headers.get("Retry-After") or details.get("retryAfterSeconds")
    return ApiError(
        status=status,
        reason=document.get("reason") or "",
        message=document.get("message") or f"HTTP status {status}",
        retry_after=min(float(wait), LONGEST_RETRY_AFTER) if wait and str(wait).isdecimal() else None,
        causes=tuple(
            FieldError(cause.get("field") or "", cause.get("message") or "") for cause in details.get("causes") or ()
        ),
    )
