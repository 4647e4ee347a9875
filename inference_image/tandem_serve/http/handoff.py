"""`kv_transfer_params`: what a prefill worker offers and what a decode worker makes of it."""

from __future__ import annotations

import contextlib
import logging
import math
import secrets
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from typing import Any

from tandem_serve.engine.client import Generation
from tandem_serve.engine.transfer.identity import KvRefusedError, check_identity
from tandem_serve.engine.types import FinishReason, RemoteKv, Update
from tandem_serve.http import errors, run
from tandem_serve.http.errors import invalid
from tandem_serve.http.prompts import Prompt
from tandem_serve.http.run import Job
from tandem_serve.http.sse import DONE, event
from tandem_serve.service import RefusedHandoff, Service

log = logging.getLogger(__name__)
PARAM = "kv_transfer_params"
LONGEST_LEASE_SECONDS = 3600.0


@dataclass(frozen=True, kw_only=True)
class Part:
    """This worker's part in a hand-off: ids under which it keeps the prompts' KV, or where it fetches them from."""

    keep_kv: tuple[str, ...] | None = None
    offers_early: bool = False
    remote: tuple[RemoteKv, ...] | None = None


def parse(service: Service, params: dict[str, Any] | None, prompts: list[Prompt], *, n: int, stream: bool) -> Part:
    """What a request asks of this worker.

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
        return Part(keep_kv=_ids(secrets.token_hex(16), len(prompts)), offers_early=params.get("offer_early") is True)
    tokens = sum(len(prompt.tokens) for prompt in prompts)
    if not params.get("do_remote_prefill"):
        if role == "decode":
            service.metrics.fell_back("no_offer", tokens=tokens)
        return Part()
    if role != "decode":
        raise invalid(f"{PARAM}: this worker has role {role} and fetches no KV", param=PARAM)
    try:
        return Part(remote=_offered(service, params, prompts))
    except KvRefusedError as error:
        service.metrics.kv_failed(error.reason)
        service.metrics.fell_back(error.reason, tokens=tokens)
        return Part()


def _offered(service: Service, params: dict[str, Any], prompts: list[Prompt]) -> tuple[RemoteKv, ...]:
    """Where the KV of each prompt is. Raises `KvRefusedError` for an offer that cannot be right."""
    try:
        check_identity(params.get("remote_identity"), service.loaded.kv_identity)
    except KvRefusedError as error:
        if service.refused_handoff is None:
            log.warning(
                "this worker and the prefill worker do not fit together: prompts are prefilled here",
                extra={"reason": error.reason, "detail": str(error)},
            )
        service.refused_handoff = RefusedHandoff(reason=error.reason, message=str(error))
        with contextlib.suppress(KvRefusedError):  # an older version may offer in another form
            service.loaded.decline_kv(_remotes(params, prompts))
        raise
    service.refused_handoff = None
    return _remotes(params, prompts)


def _remotes(params: dict[str, Any], prompts: list[Prompt]) -> tuple[RemoteKv, ...]:
    """Where an offer says that the KV of each prompt is. Raises `KvRefusedError` when that cannot be."""
    host, port, kv_id = params.get("remote_host"), params.get("remote_port"), params.get("remote_request_id")
    token, lease = params.get("remote_token"), params.get("remote_lease_seconds")
    if not isinstance(host, str) or not isinstance(port, int) or not isinstance(kv_id, str):
        raise KvRefusedError("params", "host, port or id is missing")
    if not isinstance(token, str) or not isinstance(lease, int | float):
        raise KvRefusedError("params", "token or lease is missing")
    if not host or not 0 < port < 65536 or not kv_id.isalnum() or not token.isalnum():
        raise KvRefusedError("params", "host, port, id or token cannot be right")
    if not (math.isfinite(lease) and 0 < lease <= LONGEST_LEASE_SECONDS):
        raise KvRefusedError("params", f"a lease of {lease} s")
    if params.get("remote_num_tokens") != sum(len(prompt.tokens) for prompt in prompts):
        raise KvRefusedError("tokens", "the prompt has another number of tokens there")
    return tuple(
        RemoteKv(host=host, port=port, kv_id=one, token=token, lease_seconds=float(lease))
        for one in _ids(kv_id, len(prompts))
    )


def _ids(base: str, count: int) -> tuple[str, ...]:
    """One id per prompt: the first is the base itself."""
    return (base, *(f"{base}.{number}" for number in range(1, count)))


def offer(service: Service, job: Job) -> dict[str, Any]:
    """What a prefill worker adds to its answer; nothing for other requests. From now on the leases run."""
    if job.keep_kv is None:
        return {}
    settings, loaded, kv_id = service.settings, service.loaded, job.keep_kv[0]
    loaded.leases.offered(kv_id)
    return {
        PARAM: {
            "do_remote_prefill": True,
            "do_remote_decode": False,
            "remote_engine_id": service.engine_id,
            "remote_request_id": kv_id,
            "remote_host": settings.advertise_host,
            "remote_port": settings.port,
            "remote_num_tokens": job.prompt_tokens,
            "remote_lease_seconds": settings.lease_seconds,
            "remote_token": loaded.kv_key.token(kv_id),
            "remote_identity": asdict(loaded.kv_identity),
        }
    }


def has_kv(update: Update) -> bool:
    """Whether news say that more KV is there."""
    return update.kept is not None


async def early(
    service: Service, job: Job, generation: Generation, updates: AsyncIterator[Update]
) -> AsyncIterator[bytes]:
    """The answer to a request with `offer_early`: the offer, a comment for every step, and `[DONE]` or an error.

    A prompt that nobody wants any more is cancelled, which is no error of the others.
    """
    async with generation:
        yield event(offer(service, job))
        async for update in updates:
            cancelled = update.finish is not None and update.finish.reason is FinishReason.CANCELLED
            error = None if cancelled else run.failure_of(service, update)
            if error is not None:
                yield event(errors.error_body(error, job.request_id))
                return
            if update.kept is not None:
                yield f": {update.kept.tokens} tokens\n\n".encode()
        yield DONE
