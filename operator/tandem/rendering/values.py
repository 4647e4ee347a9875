"""The values that pass between the stages of rendering."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Scalar = bool | int | float | str
Value = Scalar | tuple[int, ...]
Source = Literal["user", "parameters", "rule", "default", "blueprint"]
Outcome = Literal["applied", "overridden", "replaced", "empty", "skipped"]


def as_text(value: Value) -> str:
    """A value as engines and YAML files write it: `true`, `0.9`, `fp8`, `1,2,4`."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


@dataclass(frozen=True, slots=True)
class ParameterValue:
    """An effective engine parameter of a role, where its value comes from and what it became.

    `name` is the unified name in snake_case. `source`: user (the role's own), parameters (spec.parameters), rule,
    default or blueprint; `detail` locates it (`spec.roles.decode.parameters.maxBatchSize`, `rules/vllm.rule:12`).
    `arguments` are the command-line arguments it became (none when the value is what the engine does anyway). `note`
    tells what is lost when that is not quite what was asked.
    """

    role: str
    name: str
    value: Value
    source: Source
    detail: str
    arguments: tuple[str, ...] = ()
    note: str = ""

    @property
    def warning(self) -> str:
        """What a user should know of it; empty when it is just what was asked."""
        became = " ".join(self.arguments) or "nothing"
        return f"{self.detail}: {self.name} {self.text} becomes {became}: {self.note}" if self.note else ""

    @property
    def text(self) -> str:
        """The value as text."""
        return as_text(self.value)


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleHit:
    """What one line of a rule file did for one role.

    `location` is `rules/vllm.rule:12`, `expression` what stands there after the `=`, `value` what it gave. `outcome`:
    applied (it is the parameter's value), overridden (a user's value wins), replaced (a later line wins), empty (the
    expression gave no value) or skipped (the condition `failed` did not hold, so it was not evaluated). `held` are the
    conditions around it that held, outermost first, as `file:line: when …`.
    """

    role: str
    name: str
    value: Value | None
    location: str
    outcome: Outcome
    expression: str
    held: tuple[str, ...] = ()
    failed: str = ""


@dataclass(frozen=True, slots=True)
class EnvRef:
    """An argument that is the value of an environment variable of the container."""

    name: str


Argument = str | EnvRef


@dataclass(frozen=True, slots=True)
class RoleRendering:
    """How the workers of one role are started.

    `command` begins with the program. `files` are name → text, below the directory that the request named.
    `environment` are variables that parameters became, `settings` keys of the engine's settings file.
    """

    role: str
    command: tuple[Argument, ...]
    files: Mapping[str, str]
    environment: Mapping[str, str]
    settings: Mapping[str, Value | None]
    parameters: tuple[ParameterValue, ...]
    trace: tuple[RuleHit, ...]
    warnings: tuple[str, ...]
