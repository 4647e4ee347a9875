"""The typed inputs of the first API: overrides, runtime, worker sizes, context. Frozen, and checked when made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, Any, Literal, TypeVar

from pydantic import ConfigDict, Field, StrictBool, StrictFloat, StrictInt, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from tandem.api.mistakes import words_of
from tandem.api.problems import Problem, Refused, refuse, shorten

T = TypeVar("T")
ModeKey = Literal["agg", "disagg_prefill", "disagg_decode"]
WorkerType = Literal["decode", "prefill", "agg"]
WORKER_TYPES: tuple[WorkerType, ...] = ("decode", "prefill", "agg")
# Not strict as a whole: plain dictionaries stand for the types below. Their fields are.
_CONFIG = ConfigDict(extra="forbid", allow_inf_nan=False)
Size = Annotated[int, Field(strict=True, ge=1, le=1_048_576)]
Tokens = Annotated[int, Field(strict=True, ge=1, le=16_777_216)]


@dataclass(frozen=True, config=_CONFIG)
class DynamoConfig:
    """Overrides by flat name; `decode_`, `prefill_` and `agg_` before a name limit it to that role."""

    extras: dict[str, Any] = field(default_factory=dict)

    def split_by_worker_type(self) -> tuple[dict[str, Any], dict[WorkerType, dict[str, Any]]]:
        """Overrides for everything, and those of each role without their prefix."""
        common: dict[str, Any] = {}
        roles: dict[WorkerType, dict[str, Any]] = {role: {} for role in WORKER_TYPES}
        for name, value in self.extras.items():
            role = next((role for role in WORKER_TYPES if name.startswith(f"{role}_")), None)
            if role is None:
                common[name] = value
            else:
                roles[role][name.removeprefix(f"{role}_")] = value
        return common, roles


@dataclass(frozen=True, config=_CONFIG)
class RuntimeView:
    """What the deployment is for: lengths in tokens (None where unknown), the model's kind, the KV cache's format."""

    isl: Tokens | None
    osl: Tokens | None
    is_moe: StrictBool
    kv_cache_mode: str | None = None
    nextn: Annotated[int, Field(strict=True, ge=0, le=64)] = 0
    nextn_accept_rates: list[StrictFloat | StrictInt] | None = None


@dataclass(frozen=True, config=_CONFIG)
class ModeConfig:
    """Workers of one kind: how many, batch size, parallel sizes; `memory` is GB per GPU as measured elsewhere.

    `extra` holds what describes a measurement (number formats of kernels) and changes nothing here.
    """

    workers: Annotated[int, Field(strict=True, ge=0, le=10_000)]
    bs: Size
    tp: Size
    pp: Size
    dp: Size = 1
    moe_tp: Size = 1
    moe_ep: Size = 1
    memory: StrictFloat | StrictInt | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def gpus(self) -> int:
        """GPUs of all workers."""
        return self.workers * self.tp * self.pp * self.dp


@dataclass(frozen=True, config=_CONFIG)
class GeneratorContext:
    """Everything that artifacts are made of. Totals are None where the configuration does not say them."""

    model_name: Annotated[str, Field(min_length=1)]
    backend: str
    version: str | None
    runtime: RuntimeView
    overrides: DynamoConfig
    modes: dict[ModeKey, ModeConfig]
    total_gpus: Size | None = None
    num_gpus_per_replica: Annotated[int, Field(strict=True, ge=0)] | None = None
    num_replicas: Size | None = None
    exp_config: dict[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values that `from_dict` reads back."""
        plain: dict[str, Any] = TypeAdapter(GeneratorContext).dump_python(self)
        return plain

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> GeneratorContext:
        """A context from plain values; raises `Refused` with every mistake, unknown fields among them."""
        return checked(GeneratorContext, data, "")


@dataclass(frozen=True, config=_CONFIG)
class ArtifactBundle:
    """Files by mode (`agg` or `disagg`) and name, what they were made of, and what a user should know."""

    by_mode: dict[str, dict[str, str]]
    context: GeneratorContext
    warnings: tuple[str, ...] = ()


def checked(kind: type[T], data: object, path: str) -> T:
    """`data` as a `kind`; raises `Refused` with the path of every mistake below `path`."""
    if not isinstance(data, Mapping):
        raise refuse(path or kind.__name__, data, "must be a mapping", "Write keys and values below it.")
    try:
        return TypeAdapter(kind).validate_python(data)
    except ValidationError as error:
        raise Refused(_problem(found, path) for found in error.errors(include_url=False)) from None


def _problem(found: Any, path: str) -> Problem:
    parts = [str(part) for part in found["loc"] if part != "[key]"]
    where = ".".join([path, *parts] if path else parts) or "."
    if found["type"] == "missing":
        return Problem(where, "", f"Missing required input: {where}", "Add it.")
    if found["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        return Problem(where, shorten(found["input"]), "there is no such field", "Remove it.")
    return Problem(where, shorten(found["input"]), *words_of(found))
