"""`kv_transfer_params`: what a prefill worker offers and what a decode worker makes of it."""

from __future__ import annotations

import secrets
from typing import Any

from tandem_serve.engine.types import RemoteKv
from tandem_serve.http.errors import invalid
from tandem_serve.http.prompts import Prompt
from tandem_serve.http.run import Job
from tandem_serve.service import Service

PARAM = "kv_transfer_params"
Parsed = tuple[tuple[str, ...] | None, tuple[RemoteKv, ...] | None]


def parse(service: Service, params: dict[str, Any] | None, prompts: list[Prompt], *, n: int, stream: bool) -> Parsed:
    """(ids under which this worker keeps the prompts' KV, where it fetches them from); at most one is not None.

    Raises a 400 for a hand-off that this worker's role has no part in. An offer that cannot be right is not an error:
    it is counted and the prompt is prefilled here.
    """
    role = service.settings.role
    params = params or {}
    if params.get("do_remote_decode"):
        if stream:
            raise invalid(f"stream: a request with {PARAM} for a prefill worker must not stream", param="stream")
        if role != "prefill":
            raise invalid(f"{PARAM}: this worker has role {role} and keeps no KV", param=PARAM)
        if n != 1:
            raise invalid(f"n: a request with {PARAM} for a prefill worker must have n 1", param="n")
        return _ids(secrets.token_hex(16), len(prompts)), None
    if not params.get("do_remote_prefill"):
        if role == "decode":
            service.metrics.fell_back()
        return None, None
    if role != "decode":
        raise invalid(f"{PARAM}: this worker has role {role} and fetches no KV", param=PARAM)
    remote = _offered(params, prompts)
    if isinstance(remote, str):
        service.metrics.kv_failed(remote)
        service.metrics.fell_back()
        return None, None
    return None, remote


def _offered(params: dict[str, Any], prompts: list[Prompt]) -> tuple[RemoteKv, ...] | str:
    """Where the KV of each prompt is, or why the offer cannot be right."""
    host, port, kv_id = params.get("remote_host"), params.get("remote_port"), params.get("remote_request_id")
    if not isinstance(host, str) or not isinstance(port, int) or not isinstance(kv_id, str):
        return "params"
    if not host or not 0 < port < 65536 or not kv_id.isalnum():
        return "params"
    if params.get("remote_num_tokens") != sum(len(prompt.tokens) for prompt in prompts):
        return "tokens"
    return tuple(RemoteKv(host=host, port=port, kv_id=one) for one in _ids(kv_id, len(prompts)))


def _ids(base: str, count: int) -> tuple[str, ...]:
    """One id per prompt: the first is the base itself."""
    return (base, *(f"{base}.{number}" for number in range(1, count)))


def offer(service: Service, job: Job) -> dict[str, Any]:
    """What a prefill worker adds to its answer; nothing for other requests."""
    if job.keep_kv is None:
        return {}
    settings = service.settings
    return {
        PARAM: {
            "do_remote_prefill": True,
            "do_remote_decode": False,
            "remote_engine_id": service.engine_id,
            "remote_request_id": job.keep_kv[0],
            "remote_host": settings.advertise_host,
            "remote_port": settings.port,
            "remote_num_tokens": job.prompt_tokens,
            "remote_lease_seconds": settings.lease_seconds,
        }
    }
