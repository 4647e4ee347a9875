"""The API server as a test sees it: plain requests with the administrator's certificate, and waiting for an outcome."""

from __future__ import annotations

import base64
import http.client
import json
import ssl
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlencode, urlsplit

import yaml

from tandem.kube.resources import BY_KIND, Resource

Object = dict[str, Any]
T = TypeVar("T")


class Refusal(Exception):
    """An answer other than success."""

    def __init__(self, status: int, document: Object) -> None:
        super().__init__(f"{status}: {document.get('message')}")
        self.status = status


class Api:
    """Requests to an API server; each thread has a connection of its own."""

    def __init__(self, kubeconfig: Path) -> None:
        config = yaml.safe_load(kubeconfig.read_text())
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        self._address = urlsplit(cluster["server"])
        self._context = ssl.create_default_context(
            cadata=base64.b64decode(cluster["certificate-authority-data"]).decode()
        )
        with tempfile.NamedTemporaryFile() as pem:
            for field in ("client-certificate-data", "client-key-data"):
                pem.write(base64.b64decode(user[field]) + b"\n")
            pem.flush()
            self._context.load_cert_chain(pem.name)
        self._local = threading.local()

    def request(self, method: str, path: str, body: object = None, content_type: str = "application/json") -> Object:
        """One request; raises Refusal."""
        for attempt in (1, 2):
            connection = self._connection(fresh=attempt == 2)
            try:
                connection.request(method, path, json.dumps(body), {"Content-Type": content_type})
                answer = connection.getresponse()
                document: Object = json.loads(answer.read())
                break
            except (OSError, http.client.HTTPException):
                # The server may have closed a connection that was idle.
                if attempt == 2:
                    raise
        if answer.status >= 300:
            raise Refusal(answer.status, document)
        return document

    def get(self, kind: str, namespace: str, name: str) -> Object:
        """One object."""
        return self.request("GET", BY_KIND[kind].path(namespace, name))

    def find(self, kind: str, namespace: str, name: str) -> Object | None:
        """One object, or None when there is none."""
        try:
            return self.get(kind, namespace, name)
        except Refusal as refusal:
            if refusal.status == 404:
                return None
            raise

    def list(self, kind: str | Resource, namespace: str | None, selector: str = "") -> list[Object]:
        """Objects of a kind, with their kind filled in."""
        resource = BY_KIND[kind] if isinstance(kind, str) else kind
        query = f"?{urlencode({'labelSelector': selector})}" if selector else ""
        items = self.request("GET", resource.path(namespace) + query)["items"] or []
        return [{"apiVersion": resource.api_version, "kind": resource.kind, **item} for item in items]

    def create(self, obj: Object) -> Object:
        """POST."""
        return self.request("POST", BY_KIND[obj["kind"]].path(obj["metadata"]["namespace"]), obj)

    def merge(self, kind: str, namespace: str, name: str, patch: Object, subresource: str = "") -> Object:
        """A merge patch."""
        path = BY_KIND[kind].path(namespace, name, subresource)
        return self.request("PATCH", path, patch, "application/merge-patch+json")

    def delete(self, kind: str, namespace: str, name: str, **options: Any) -> None:
        """DELETE; what is not there is no error."""
        try:
            self.request("DELETE", BY_KIND[kind].path(namespace, name), options)
        except Refusal as refusal:
            if refusal.status != 404:
                raise

    def _connection(self, *, fresh: bool) -> http.client.HTTPSConnection:
        connection: http.client.HTTPSConnection | None = getattr(self._local, "connection", None)
        if connection is None or fresh:
            connection = http.client.HTTPSConnection(
                self._address.hostname or "", self._address.port, context=self._context, timeout=30
            )
            self._local.connection = connection
        return connection


def eventually(
    look: Callable[[], T], accept: Callable[[T], object] = bool, *, timeout: float = 90.0, why: str = ""
) -> T:
    """What `look` gives once that is acceptable; fails with the last of it after `timeout`."""
    deadline = time.monotonic() + timeout
    while not accept(found := look()):
        if time.monotonic() > deadline:
            shown = json.dumps(found, indent=1, default=str)[-4000:]
            raise AssertionError(f"{why or 'not'} after {timeout} s; the last was:\n{shown}")
        time.sleep(0.05)
    return found
