"""Everything one server process was told: flags over file over defaults."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tandem_serve.config import ServeConfig
from tandem_serve.problems import usage_error

Role = Literal["agg", "prefill", "decode"]
DEFAULT_MAX_NUM_SEQS = 16
DEFAULT_BATCHED_TOKENS = 512
STUCK_SECONDS = 300.0
MAX_BODY_BYTES = 10 * 1000 * 1000


@dataclass(frozen=True, kw_only=True)
class Settings:
    """See `tandem-serve --help` for the meaning of each. Raises `StartError` for what cannot go together."""

    model: str
    served_name: str
    role: Role
    host: str
    port: int
    config: ServeConfig
    max_num_seqs: int
    max_num_batched_tokens: int = DEFAULT_BATCHED_TOKENS
    revision: str | None = None
    dtype: str = "auto"
    quantization: str | None = None
    max_model_len: int | None = None
    kv_cache_tokens: int | None = None
    prefix_reuse: bool = True
    record_steps: bool = True
    """Whether decode steps are recorded at the start and replayed: as CUDA graphs, or as a trace on a CPU."""
    advertise_host: str = "127.0.0.1"
    trust_remote_code: bool = False
    tool_call_format: str | None = None
    """How the model writes calls of tools; None: as its chat template tells."""
    lease_seconds: float = 30.0
    pull_timeout: float = 30.0
    pull_stall_seconds: float = 5.0
    """How long the bytes of a pull may stand still."""
    max_body_bytes: int = MAX_BODY_BYTES
    client_seconds: float = 60.0
    """How long a client may take for a body, or take nothing of its answer."""
    api_key_file: Path | None = None
    stuck_seconds: float = STUCK_SECONDS
    """A step of the model that takes longer means a stuck device."""

    def __post_init__(self) -> None:
        if self.quantization is not None and self.dtype not in ("auto", "bfloat16"):
            reason = "quantised weights are multiplied in bfloat16"
            raise usage_error("--dtype", value=self.dtype, reason=reason, fix="give bfloat16, or leave the flag out")
