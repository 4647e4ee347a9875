"""The bodies of the two legs of a disaggregated request, and the check of what passes between them. Pure.

Those of torch and vLLM; `sglang.py` and `trtllm.py` have the others'.

The protocol is that of vLLM's NIXL pull connector; the bundled torch server speaks the same. Prefill is asked for one
token and answers with `kv_transfer_params`; decode gets the client's own body with these, unchanged, and pulls the KV
cache itself. They are opaque but not unchecked: a vLLM 0.32 decode worker that gets them without `remote_request_id`
dies. A torch prefill worker answers while it still computes, with an event stream that begins with the parameters;
older ones, which do not know `offer_early`, when they are done.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from tandem.gateway.fleet import Endpoint

KV_PARAMS = "kv_transfer_params"
# vLLM merges this object into the place where it keeps kv_transfer_params: the same door by another name.
EXTRA_ARGS = "vllm_xargs"
ASK_FOR_HANDOFF = {"do_remote_decode": True, "do_remote_prefill": False}
ASK_TORCH = {**ASK_FOR_HANDOFF, "offer_early": True}
_DROPPED_FOR_PREFILL = ("stream_options", "min_tokens")

# The doors of the other engines: what passes between their workers.
_ROUTERS_OWN = (KV_PARAMS, "disaggregated_params", "bootstrap_host", "bootstrap_port", "bootstrap_room")

Body = dict[str, Any]


class Backend(StrEnum):
    """The servers whose hand-off the router can drive."""

    TORCH = "torch"
    VLLM = "vllm"
    SGLANG = "sglang"
    TRTLLM = "trtllm"


@dataclass(frozen=True, slots=True)
class Handoff:
    """Checked `kv_transfer_params`."""

    params: Mapping[str, Any]

    @property
    def request_id(self) -> str:
        """Under which prefill keeps the KV."""
        return str(self.params["remote_request_id"])

    @property
    def token(self) -> str:
        """What a torch prefill worker wants to see before it does anything with the KV."""
        return str(self.params.get("remote_token", ""))


@dataclass(frozen=True, slots=True)
class BadHandoff:
    """`kv_transfer_params` that must not reach a decode worker: which key, and what is wrong with it."""

    key: str
    reason: str

    def __str__(self) -> str:
        return f"{KV_PARAMS}.{self.key}: {self.reason}" if self.key else f"{KV_PARAMS}: {self.reason}"


def strip(body: Body) -> tuple[Body, tuple[str, ...]]:
    """`body` without what only the router may say to a worker, and the names of what was taken out."""
    stripped = [key for key in _ROUTERS_OWN if key in body]
    if stripped:
        body = {key: value for key, value in body.items() if key not in stripped}
    extra = body.get(EXTRA_ARGS)
    if isinstance(extra, dict) and KV_PARAMS in extra:
        body = {**body, EXTRA_ARGS: {key: value for key, value in extra.items() if key != KV_PARAMS}}
        stripped.append(f"{EXTRA_ARGS}.{KV_PARAMS}")
    return body, tuple(stripped)


def why_not_handed_off(backend: Backend, body: Body) -> str | None:
    """Why this request's prompt must be computed on the decode worker (a metrics label), or None."""
    if backend is Backend.SGLANG:
        return None  # both workers see the whole request, and neither serves one alone
    if body.get("prompt_logprobs") is not None or (body.get("echo") and body.get("logprobs") is not None):
        return "prompt_logprobs"  # they come out of the forward pass that decode would skip
    if backend is Backend.TORCH:
        return None  # its parameters stand for every prompt and every choice of a request
    prompt = body.get("prompt")
    if isinstance(prompt, list) and len(prompt) > 1 and all(isinstance(item, str | list) for item in prompt):
        return "prompt_batch"  # vLLM and TensorRT-LLM answer with the parameters of one prompt
    if any(_more_than_one(body.get(key)) for key in ("n", "best_of")):
        return "several_choices"  # each choice would pull blocks that the first pull has freed
    return None


def _more_than_one(value: object) -> bool:
    return isinstance(value, int) and value > 1


def prefill_body(backend: Backend, body: Body) -> Body:
    """The body of the prefill leg: the same prompt, one token, one choice, no stream."""
    leg = {key: value for key, value in body.items() if key not in _DROPPED_FOR_PREFILL}
    leg["stream"] = False
    leg["max_tokens"] = 1
    for key in ("max_completion_tokens", "n", "best_of"):
        if key in leg:
            leg[key] = 1
    leg[KV_PARAMS] = ASK_TORCH if backend is Backend.TORCH else ASK_FOR_HANDOFF
    return leg


def decode_body(raw: bytes, handoff: Handoff) -> bytes:
    """The body of the decode leg: `raw`, an object without the key, byte for byte, with the parameters put in front."""
    rest = raw.lstrip()[1:].lstrip()
    comma = b"" if rest.startswith(b"}") else b","
    return b'{"' + KV_PARAMS.encode() + b'":' + encode(handoff.params) + comma + rest


def encode(value: object) -> bytes:
    """JSON in its shortest form; plain ASCII, so that it exists for lone surrogates too."""
    return json.dumps(value, separators=(",", ":")).encode()


def read_handoff(backend: Backend, answer: object, prefill: Endpoint) -> Handoff | BadHandoff | None:
    """The hand-off in prefill's answer (parsed JSON); None when it offers none, as after a stop at the first token."""
    if not isinstance(answer, dict):
        return BadHandoff("", f"the answer is not an object but {_kind(answer)}")
    params = answer.get(KV_PARAMS)
    if params is None:
        return None
    if not isinstance(params, dict):
        return BadHandoff("", f"is not an object but {_kind(params)}")
    for key, check in _required(backend, params).items():
        if key not in params:
            return BadHandoff(key, "is missing")
        if reason := check(params[key]):
            return BadHandoff(key, reason)
    if _is_loopback(params["remote_host"]) and not _is_loopback(prefill.address):
        return BadHandoff(
            "remote_host",
            f"is {params['remote_host']}, which is no way from one pod to another (worker at {prefill.address}); "
            "set VLLM_NIXL_SIDE_CHANNEL_HOST (vLLM) or --advertise-host (torch) to the pod's address",
        )
    return Handoff(params)


Check = Callable[[object], str | None]


def _required(backend: Backend, params: Mapping[str, Any]) -> dict[str, Check]:
    common: dict[str, Check] = {
        "do_remote_prefill": _must_be(True),
        "do_remote_decode": _must_be(False),
        "remote_engine_id": _text,
        "remote_request_id": _text,
        "remote_host": _text,
        "remote_port": _port,
    }
    if backend is Backend.TORCH:
        own = {"remote_num_tokens": _positive_int, "remote_lease_seconds": _positive, "remote_token": _word}
        return {**common, **own}
    if params.get("transfer_mode") == "push":
        return {**common, "tp_size": _positive_int}
    return {**common, "tp_size": _positive_int, "remote_block_ids": _list}


def _must_be(wanted: bool) -> Check:
    return lambda value: None if value is wanted else f"must be {str(wanted).lower()}"


def _text(value: object) -> str | None:
    return None if isinstance(value, str) and value.strip() else f"must be a text, not {_kind(value)}"


def _word(value: object) -> str | None:
    fine = isinstance(value, str) and value.isascii() and value.isalnum()
    return None if fine else "must be letters and digits"  # never show it


def _port(value: object) -> str | None:
    fine = isinstance(value, int) and not isinstance(value, bool) and 0 < value < 65536
    return None if fine else "must be a port number"


def _positive_int(value: object) -> str | None:
    fine = isinstance(value, int) and not isinstance(value, bool) and value > 0
    return None if fine else "must be a whole number above 0"


def _positive(value: object) -> str | None:
    fine = isinstance(value, int | float) and not isinstance(value, bool) and value > 0
    return None if fine else "must be a number above 0"


def _list(value: object) -> str | None:
    return None if isinstance(value, list) else f"must be a list, not {_kind(value)}"


def _kind(value: object) -> str:
    if isinstance(value, str) and not value.strip():
        return "an empty text"
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def _is_loopback(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return host.lower() == "localhost"
    return address.is_loopback or address.is_unspecified
