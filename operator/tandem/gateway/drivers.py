"""How each backend is asked for a hand-off and given one, where prefill answers before decode is asked. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tandem.gateway import protocol, trtllm
from tandem.gateway.body import RequestBody, written
from tandem.gateway.fleet import Endpoint
from tandem.gateway.protocol import Backend, BadHandoff, Body, Handoff


@dataclass(frozen=True, slots=True)
class Driver:
    """`ask` makes prefill's body, `read` checks what its answer (parsed JSON) offers, `give` makes decode's body."""

    ask: Callable[[Body], Body]
    read: Callable[[object, Endpoint], Handoff | BadHandoff | None]
    give: Callable[[RequestBody, Handoff], bytes]


def driver(backend: Backend) -> Driver:
    """The driver of a backend."""
    if backend is Backend.TRTLLM:
        return Driver(
            ask=trtllm.context_body,
            read=lambda answer, _prefill: trtllm.read_handoff(answer),
            give=lambda body, handoff: written(trtllm.generation_body(body.fields, handoff)),
        )
    return Driver(
        ask=lambda body: protocol.prefill_body(backend, body),
        read=lambda answer, prefill: protocol.read_handoff(backend, answer, prefill),
        give=lambda body, handoff: protocol.decode_body(body.raw, handoff),
    )
