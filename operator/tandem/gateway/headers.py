"""Which headers pass through the router, and which end here."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable

from multidict import CIMultiDict, CIMultiDictProxy

RawHeaders = Iterable[tuple[bytes, bytes]]

# RFC 9110, 7.6.1: these are about one connection, not about the message.
HOP_BY_HOP = frozenset(
    {
        b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection",
        b"te", b"trailer", b"transfer-encoding", b"upgrade", b"http2-settings",
    }
)  # fmt: skip
# The client's credentials are for the router, not for workers; lengths and encodings are the router's own business;
# the rest would let a client speak to a worker in the router's name.
_NOT_TO_WORKERS = HOP_BY_HOP | {
    b"host", b"authorization", b"cookie", b"content-length", b"content-type", b"accept-encoding", b"expect",
    b"x-request-id", b"x-data-parallel-rank",
}  # fmt: skip
_NOT_TO_CLIENTS = HOP_BY_HOP | {b"date", b"server", b"set-cookie", b"content-length", b"x-request-id"}
_OWN_PREFIX = b"x-tandem-"
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,96}")


def request_id(headers: RawHeaders) -> str:
    """The client's X-Request-Id when it can be logged as it is, else a new one."""
    for name, value in headers:
        if name == b"x-request-id":
            text = value.decode("latin-1")
            return text if _REQUEST_ID.fullmatch(text) else secrets.token_hex(16)
    return secrets.token_hex(16)


def leg_id(request: str) -> str:
    """The X-Request-Id of one attempt, beginning with the request's own.

    Workers key KV caches by it, so two attempts, or two clients that send the same id, must never share one.
    """
    return f"{request}.{secrets.token_hex(4)}"


def to_worker(headers: RawHeaders) -> CIMultiDict[str]:
    """The client's headers that a worker may see."""
    headers = list(headers)
    listed = _listed_in_connection(headers)
    passed: CIMultiDict[str] = CIMultiDict()
    for name, value in headers:
        if name not in _NOT_TO_WORKERS and name not in listed and not name.startswith(_OWN_PREFIX):
            passed.add(name.decode("latin-1"), value.decode("latin-1"))
    passed["Content-Type"] = "application/json"
    passed["Accept-Encoding"] = "identity"
    return passed


def to_client(headers: CIMultiDictProxy[str]) -> list[tuple[bytes, bytes]]:
    """A worker's headers that the client may see, lower-cased; never its content-length, which the caller knows."""
    raw = [(name.lower().encode("latin-1"), value.encode("latin-1", "replace")) for name, value in headers.items()]
    listed = _listed_in_connection(raw)
    return [
        (name, value)
        for name, value in raw
        if name not in _NOT_TO_CLIENTS and name not in listed and not name.startswith(_OWN_PREFIX)
    ]


def _listed_in_connection(headers: RawHeaders) -> frozenset[bytes]:
    return frozenset(
        token.strip().lower() for name, value in headers if name == b"connection" for token in value.split(b",")
    )
