"""Errors in OpenAI's form: `{"error": {"message", "type", "param", "code", "request_id"}}`, never a traceback."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

_TYPES = {404: "not_found_error", 429: "rate_limit_error", 503: "unavailable_error", 504: "timeout_error"}


class ApiError(Exception):
    """An answer with an error status. `param` names the field that is wrong."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.headers = dict(headers or {})


def invalid(message: str, *, param: str | None, code: str = "invalid_value") -> ApiError:
    """400: the request asks for something that cannot be."""
    return ApiError(400, message, code=code, param=param)


def unsupported(field: str, detail: str = "") -> ApiError:
    """400: the field has a meaning that this server does not serve."""
    return ApiError(
        400, f"`{field}` is not supported by this server{detail}", code="unsupported_parameter", param=field
    )


def wrong_key(*, given: bool) -> ApiError:
    """401: without an API key, or with one that is not known."""
    if given:
        message = "Incorrect API key provided."
    else:
        message = "You did not provide an API key. Send it in the header Authorization: Bearer YOUR_KEY."
    return ApiError(401, message, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})


def body_too_large(most: int) -> ApiError:
    """413: the body has more than `most` bytes."""
    return ApiError(413, f"The body is larger than {most} bytes.", code="body_too_large")


def too_many_bodies() -> ApiError:
    """429: there is no room for one more large body at this moment."""
    message = "Too many large bodies are being handled. Try again a little later."
    return ApiError(429, message, code="too_many_large_bodies", headers={"Retry-After": "1"})


def too_long(message: str, *, param: str | None) -> ApiError:
    """413: the prompt or the body is too long."""
    return ApiError(413, message, code="context_length_exceeded", param=param)


def queue_full(retry_after: int) -> ApiError:
    """429: as many requests wait as may wait."""
    message = "Too many requests are waiting. Try again a little later."
    return ApiError(429, message, code="queue_full", headers={"Retry-After": str(retry_after)})


def not_ready(message: str, *, code: str = "not_ready", retry_after: int = 5) -> ApiError:
    """503: the model is loading or the server drains."""
    return ApiError(503, message, code=code, headers={"Retry-After": str(retry_after)})


def timed_out(seconds: float) -> ApiError:
    """504: the generation was stopped at its time limit. Clients must not send it again by themselves."""
    message = (
        f"The request took longer than {seconds:g} s, waiting included, and was stopped. "
        "Ask for fewer new tokens or shorten the prompt."
    )
    return ApiError(504, message, code="generation_timeout", headers={"x-should-retry": "false"})


def failed(message: str) -> ApiError:
    """500: the fault is on this side."""
    return ApiError(500, message, code="internal_error")


def error_body(error: ApiError, request_id: str) -> dict[str, Any]:
    """The body of an error answer; also what an open stream gets."""
    kind = _TYPES.get(error.status) or ("server_error" if error.status >= 500 else "invalid_request_error")
    return {
        "error": {
            "message": error.message,
            "type": kind,
            "param": error.param,
            "code": error.code,
            "request_id": request_id,
        }
    }


def request_id_of(request: Request) -> str:
    """The id that the edge gave the request."""
    return str(request.scope.get("tandem.request_id", ""))


def install(app: FastAPI) -> None:
    """Makes every error of the app look like the others."""

    def answer(request: Request, error: ApiError) -> JSONResponse:
        body = error_body(error, request_id_of(request))
        return JSONResponse(body, status_code=error.status, headers=error.headers)

    async def on_api_error(request: Request, error: Exception) -> JSONResponse:
        return answer(request, error if isinstance(error, ApiError) else failed("internal error"))

    async def on_invalid(request: Request, error: Exception) -> JSONResponse:
        details = error.errors() if isinstance(error, RequestValidationError) else []
        status = 422 if request.url.path == "/generate" else 400
        if "json" not in request.headers.get("content-type", ""):
            message = "Send the body as JSON, with the header Content-Type: application/json."
            return answer(request, ApiError(415, message, code="not_json"))
        return answer(request, _validation_error(details, status))

    async def on_http(request: Request, error: Exception) -> JSONResponse:
        status = error.status_code if isinstance(error, HTTPException) else 500
        if isinstance(error.__cause__, UnicodeDecodeError | RecursionError | ValueError):
            # What the parser of the body could not even name a place for.
            reason = "it is not UTF-8, nested too deeply, or has a number with too many digits"
            return answer(request, ApiError(400, f"The body is not valid JSON: {reason}", code="invalid_json"))
        codes = {404: "unknown_path", 405: "method_not_allowed"}
        message = {404: f"There is nothing at {request.url.path}."}.get(status, str(getattr(error, "detail", error)))
        headers = getattr(error, "headers", None)
        return answer(request, ApiError(status, message, code=codes.get(status, "bad_request"), headers=headers))

    async def on_crash(request: Request, _error: Exception) -> JSONResponse:
        return answer(request, failed("The server failed to handle this request."))  # the edge logs it

    app.add_exception_handler(ApiError, on_api_error)
    app.add_exception_handler(RequestValidationError, on_invalid)
    app.add_exception_handler(HTTPException, on_http)
    app.add_exception_handler(Exception, on_crash)


def _validation_error(details: Sequence[Mapping[str, Any]], status: int) -> ApiError:
    if not details:
        return ApiError(status, "The request is not valid.", code="invalid_request")
    first = details[0]
    if first["type"] == "json_invalid":
        reason = (first.get("ctx") or {}).get("error", first["msg"])
        return ApiError(status, f"The body is not valid JSON: {reason}", code="invalid_json")
    path = _field(first["loc"])
    more = f" (and {len(details) - 1} more)" if len(details) > 1 else ""
    message = f"{path or 'body'}: {first['msg']}{more}"
    return ApiError(status, message, code=str(first["type"]), param=path or None)


def _field(location: Sequence[Any]) -> str:
    """`("body", "messages", 0, "role")` as `messages[0].role`; the names of union members are left out."""
    text = ""
    for part in location[1:]:
        if isinstance(part, int):
            text += f"[{part}]"
        elif part.isidentifier() and part not in ("str", "int", "list", "float", "bool"):
            text += f".{part}" if text else part
    return text
