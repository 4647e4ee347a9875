"""Every option of the router, with its default."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from tandem.api.problems import Problem, Refused, shorten
from tandem.gateway.balance import Policy
from tandem.gateway.protocol import Backend

Choice = TypeVar("Choice", bound=StrEnum)


class Mode(StrEnum):
    """One pool of workers, or prefill and decode apart."""

    AGG = "agg"
    DISAGG = "disagg"


@dataclass(frozen=True, kw_only=True)
class RouterSettings:
    """What the router is to do; names are those of the command line's options. Raises `Refused` for what cannot work.

    Workers come from the EndpointSlices of `namespace` or from `endpoints_file`: exactly one of them. `backend`, `mode`
    and `policy` may be given as text. Times are seconds.
    """

    deployment: str
    backend: Backend
    mode: Mode
    served_model_name: str
    namespace: str | None = None
    endpoints_file: Path | None = None
    policy: Policy = Policy.LEAST_LOADED
    host: str = "0.0.0.0"
    port: int = 8000
    # One API key per line; without it whoever reaches the router may ask.
    api_key_file: Path | None = None
    # A prompt of 128k tokens is half a megabyte as text, one as token ids; the rest is room for images in a chat.
    max_body_bytes: int = 8 * 2**20
    # Bodies of all requests under way; each takes two to three times its size in memory.
    max_held_bytes: int = 256 * 2**20
    max_answer_bytes: int = 64 * 2**20
    # Pairs (or workers) tried for one request.
    attempts: int = 3
    retry_pause_seconds: float = 0.02
    retry_pause_limit_seconds: float = 1.0
    connect_seconds: float = 2.0
    body_seconds: float = 30.0
    # How long a client may take nothing of its answer.
    client_seconds: float = 60.0
    # The prefill leg up to its offer, and as long again for what a torch worker still computes after that.
    prefill_seconds: float = 60.0
    # First event of a stream whose KV waits at prefill; not with torch, whose decode workers keep it alive. Well below
    # vLLM's lease of 30 s, after which decode may get the KV of another prompt.
    decode_first_byte_seconds: float = 18.0
    # First event of any other stream.
    first_byte_seconds: float = 300.0
    # Silence within a stream.
    idle_seconds: float = 120.0
    # All attempts together, up to a stream's first event or an answer's last byte.
    request_seconds: float = 600.0
    retry_after_seconds: int = 2
    # After SIGTERM: new connections are still taken while the endpoint lists of others catch up, and running requests
    # may go on until the grace ends (both counted from the signal). Stay below the pod's termination grace period.
    drain_seconds: float = 5.0
    grace_seconds: float = 25.0
    file_poll_seconds: float = 0.25

    def __post_init__(self) -> None:
        problems: list[Problem] = []
        for name, kind in (("backend", Backend), ("mode", Mode), ("policy", Policy)):
            value = _choice(kind, getattr(self, name))
            if value is None:
                known = ", ".join(kind)
                problems.append(
                    Problem(_option(name), shorten(getattr(self, name)), "is not known", f"Use one of: {known}.")
                )
            else:
                object.__setattr__(self, name, value)
        if (self.namespace is None) == (self.endpoints_file is None):
            given = "both" if self.namespace is not None else "neither"
            reason = "exactly one of --namespace and --endpoints-file is needed"
            problems.append(Problem("--namespace", given, reason, "Give one of them."))
        problems += self._bounds()
        if problems:
            raise Refused(problems)

    def _bounds(self) -> list[Problem]:
        least: dict[str, float] = {
            "max_body_bytes": 1,
            "max_held_bytes": self.max_body_bytes,
            "max_answer_bytes": 1,
            "attempts": 1,
            "retry_after_seconds": 1,
        }
        zero_is_fine = {"drain_seconds", "grace_seconds", "retry_pause_seconds", "retry_pause_limit_seconds"}
        seconds = {name: 0.0 for name in self.__dataclass_fields__ if name.endswith("_seconds") and name not in least}
        problems = []
        for name, bound in (least | seconds).items():
            value = getattr(self, name)
            above = value > bound or (value == bound and (name in least or name in zero_is_fine))
            if not above:
                more = "at least" if name in least or name in zero_is_fine else "above"
                problems.append(Problem(_option(name), str(value), "is too small", f"Use a value {more} {bound:g}."))
        if not 0 <= self.port <= 65535:
            problems.append(Problem("--port", str(self.port), "is not a port", "Use 1 to 65535, or 0 for a free one."))
        for name in ("deployment", "served_model_name"):
            if not getattr(self, name):
                problems.append(Problem(_option(name), "''", "is empty", "Give a name."))
        return problems


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _choice(kind: type[Choice], value: str) -> Choice | None:
    try:
        return kind(value)
    except ValueError:
        return None
