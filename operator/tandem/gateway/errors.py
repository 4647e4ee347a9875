"""Errors of the router itself, in the form that OpenAI clients understand."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from tandem.gateway.protocol import encode


class HttpError(Exception):
    """An error answer; `headers` go with it (Retry-After, Allow, x-should-retry)."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str,
        code: str | None = None,
        param: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind
        self.code = code
        self.param = param
        self.headers = headers or {}

    def body(self, request_id: str) -> bytes:
        """The JSON of the answer."""
        return encode({"error": self.fields(request_id)})

    def event(self, request_id: str) -> bytes:
        """The same as one server-sent event, for a stream that has begun."""
        return b"data: " + self.body(request_id) + b"\n\n"

    def fields(self, request_id: str) -> dict[str, Any]:
        """The members of `error`."""
        return {
            "message": self.message,
            "type": self.kind,
            "param": self.param,
            "code": self.code,
            "request_id": request_id,
        }


def bad_request(message: str) -> HttpError:
    """400: what the client sent cannot be understood."""
    return HttpError(400, message, kind="invalid_request_error", code="invalid_body")


def two_lengths() -> HttpError:
    """400: where the body ends can be understood in two ways, and somebody on the way may have understood the other."""
    message = "the request has both Content-Length and Transfer-Encoding; send one of them"
    return HttpError(
        400, message, kind="invalid_request_error", code="invalid_request", headers={"connection": "close"}
    )


def wrong_key(*, given: bool) -> HttpError:
    """401: without an API key, or with one that is not known."""
    if given:
        message = "Incorrect API key provided."
    else:
        message = "You did not provide an API key. Send it in the header Authorization: Bearer YOUR_KEY."
    headers = {"www-authenticate": "Bearer"}
    return HttpError(401, message, kind="invalid_request_error", code="invalid_api_key", headers=headers)


def body_too_slow(seconds: float) -> HttpError:
    """408: the body did not arrive in time."""
    return HttpError(
        408, f"the body did not arrive within {seconds:g} s", kind="invalid_request_error", code="request_timeout"
    )


def too_large(limit: int) -> HttpError:
    """413: the body has more bytes than the router takes."""
    return HttpError(
        413,
        f"the body is larger than {limit} bytes; send less, or raise the router's --max-body-bytes",
        kind="invalid_request_error",
        code="request_too_large",
    )


def too_many_bodies(*, retry_after: int) -> HttpError:
    """503: the bodies of other requests take all the room there is."""
    message = (
        "the router holds as many request bodies as it may; send the request again later, or raise --max-held-bytes"
    )
    return _unavailable(message, code="router_full", retry_after=retry_after)


def unknown_route(status: int, *, method: str, path: str, headers: dict[str, str] | None = None) -> HttpError:
    """404 or 405: no such route, or not with this method."""
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
        message = f"{method} is not possible on {path}"
    else:
        message = f"there is no route {method} {path}"
    return HttpError(status, message, kind="invalid_request_error", code="unknown_route", headers=headers)


def no_worker(message: str, *, retry_after: int) -> HttpError:
    """503: nobody is there to serve the request."""
    return _unavailable(message, code="no_worker_ready", retry_after=retry_after)


def stopping(*, retry_after: int) -> HttpError:
    """503: the router is going away before the request was done."""
    return _unavailable(
        "the router is stopping; send the request again", code="router_stopping", retry_after=retry_after
    )


def _unavailable(message: str, *, code: str, retry_after: int) -> HttpError:
    headers = {"retry-after": str(retry_after)}
    return HttpError(503, message, kind="service_unavailable", code=code, headers=headers)


def not_reached(message: str, *, retry_after: int) -> HttpError:
    """503: workers are listed, and none that was asked could be connected to, as just after they were killed."""
    return _unavailable(message, code="no_worker_reached", retry_after=retry_after)


def failed(message: str) -> HttpError:
    """502: workers were reached, and none gave an answer."""
    return HttpError(502, message, kind="upstream_error", code="worker_failed")


def timed_out(message: str) -> HttpError:
    """504: no answer in time. A client that sends it again only adds to the load."""
    return HttpError(504, message, kind="timeout", code="timeout", headers={"x-should-retry": "false"})


def broken_stream(message: str) -> HttpError:
    """502 in a stream that has begun: the worker's answer ended before its end."""
    return HttpError(502, message, kind="upstream_error", code="stream_broken")


def internal() -> HttpError:
    """500: a defect of the router."""
    return HttpError(500, "the router failed; its log has the reason", kind="internal_error", code="router_failed")
