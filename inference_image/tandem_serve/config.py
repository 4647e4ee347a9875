"""`config.yml`: the limits of a server, as typed values.

    HUGGINGFACE_MODEL: {NAME: Qwen/Qwen2.5-1.5B-Instruct, BASE: Qwen/Qwen2.5-1.5B-Instruct}
    GENERATION: {MAX_NEW_TOKENS: 512, DEFAULT_MAX_NEW_TOKENS: 64, TIMEOUT_SECONDS: 60, OCCUPANCY_SEMAPHORE: 1,
                 MAX_PROMPT_TOKENS: 2048, ON_OVERLONG: reject, MAX_QUEUE: 64}

Unknown keys and wrong types are refused, never ignored. Environment: HF_TOKEN (or HF_TOKEN_READ) and PORT.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from tandem_serve.problems import EXIT_USAGE, Problem, StartError, usage_error

OnOverlong = Literal["reject", "truncate"]
DEFAULT_PORT = 8000
# Pydantic's kinds of errors that this file's fields can have.
_WORDS = {
    "int_type": "a whole number is needed here",
    "float_type": "a number is needed here",
    "string_type": "a text is needed here",
    "model_type": "key: value lines are needed here",
    "string_too_short": "it must not be empty",
    "greater_than": "it must be above {gt:g}",
    "greater_than_equal": "it must be at least {ge:g}",
    "literal_error": "only {expected} can stand here",
    "finite_number": "infinity and NaN are no numbers here",
}


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class ModelSection(_Section):
    """Which model: a directory or a hub repository."""

    NAME: str | None = Field(default=None, min_length=1)
    BASE: str | None = Field(default=None, min_length=1)


class GenerationSection(_Section):
    """The limits of every generation."""

    MAX_NEW_TOKENS: int = Field(default=512, ge=1)
    DEFAULT_MAX_NEW_TOKENS: int = Field(default=64, ge=1)
    TIMEOUT_SECONDS: float = Field(default=60, gt=0)
    OCCUPANCY_SEMAPHORE: int = Field(default=1, ge=1)
    MAX_PROMPT_TOKENS: int = Field(default=2048, ge=1)
    ON_OVERLONG: OnOverlong = "reject"
    MAX_QUEUE: int = Field(default=64, ge=0)


class ConfigFile(_Section):
    """The whole file."""

    HUGGINGFACE_MODEL: ModelSection = ModelSection()
    GENERATION: GenerationSection = GenerationSection()


class ServeConfig:
    """The file and the environment together. Read only."""

    def __init__(self, file: ConfigFile | None = None, env: Mapping[str, str] | None = None) -> None:
        env = env or {}
        self.file = file or ConfigFile()
        token = env.get("HF_TOKEN") or env.get("HF_TOKEN_READ")
        self._token = SecretStr(token) if token else None
        self._port = _port(env.get("PORT"))

    @property
    def model_name(self) -> str | None:
        """Directory or hub repository of the model, when the file names one."""
        return self.file.HUGGINGFACE_MODEL.NAME

    @property
    def base_model(self) -> str | None:
        """Where the tokenizer comes from when the model's directory has none."""
        return self.file.HUGGINGFACE_MODEL.BASE

    @property
    def hf_token(self) -> SecretStr | None:
        """Hub token; a `SecretStr`, so that it does not show in logs or tracebacks."""
        return self._token

    @property
    def port(self) -> int:
        """Port to listen on, when no flag says otherwise."""
        return self._port

    @property
    def max_new_tokens(self) -> int:
        """Upper bound of new tokens of one request."""
        return self.file.GENERATION.MAX_NEW_TOKENS

    @property
    def default_max_new_tokens(self) -> int:
        """New tokens of a request that does not say how many; never above `max_new_tokens`."""
        return min(self.file.GENERATION.DEFAULT_MAX_NEW_TOKENS, self.max_new_tokens)

    @property
    def generation_timeout(self) -> float:
        """Seconds from arrival after which a generation is stopped."""
        return float(self.file.GENERATION.TIMEOUT_SECONDS)

    @property
    def occupancy_semaphore(self) -> int:
        """Generations that may run at once in this process."""
        return self.file.GENERATION.OCCUPANCY_SEMAPHORE

    @property
    def semaphore_is_set(self) -> bool:
        """Whether the file itself says OCCUPANCY_SEMAPHORE."""
        return "OCCUPANCY_SEMAPHORE" in self.file.GENERATION.model_fields_set

    @property
    def max_prompt_tokens(self) -> int:
        """Longest prompt."""
        return self.file.GENERATION.MAX_PROMPT_TOKENS

    @property
    def on_overlong(self) -> OnOverlong:
        """What happens to a longer prompt."""
        return self.file.GENERATION.ON_OVERLONG

    @property
    def max_queue(self) -> int:
        """Requests that may wait for a running slot."""
        return self.file.GENERATION.MAX_QUEUE


def load_config(path: Path | None, env: Mapping[str, str]) -> ServeConfig:
    """Reads `path` (None: defaults only) and the environment. Raises `StartError` with one problem per wrong key."""
    return ServeConfig(None if path is None else _read(path), env)


def _read(path: Path) -> ConfigFile:
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise usage_error(
            "--config", value=str(path), reason="there is no such file", fix="give the path of a config.yml"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise usage_error(
            "--config", value=str(path), reason=f"cannot be read: {error}", fix="give a readable UTF-8 file"
        ) from error
    except RecursionError:
        raise usage_error(str(path), reason="malformed YAML: nested too deeply", fix="correct the file") from None
    except yaml.YAMLError as error:
        raise _malformed(path, error) from error
    if document is None:
        document = {}
    if not isinstance(document, dict):
        raise usage_error(
            str(path),
            value=type(document).__name__,
            reason="the file must be a mapping",
            fix="start it with GENERATION: or HUGGINGFACE_MODEL:",
        )
    try:
        return ConfigFile.model_validate(document)
    except ValidationError as error:
        raise StartError(tuple(_problem(path, item) for item in error.errors()), exit_code=EXIT_USAGE) from error


def _malformed(path: Path, error: yaml.YAMLError) -> StartError:
    mark = getattr(error, "problem_mark", None)
    where = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark is not None else str(path)
    reason = getattr(error, "problem", None) or "not YAML"
    return usage_error(where, reason=f"malformed YAML: {reason}", fix="correct the YAML at this place")


def _problem(path: Path, item: Mapping[str, Any]) -> Problem:
    location = item["loc"]
    keys = [str(part) for part in location] if isinstance(location, tuple) else []
    where, value = f"{path}: {'.'.join(keys)}", repr(item["input"])
    sections: dict[str, type[BaseModel]] = {"GENERATION": GenerationSection, "HUGGINGFACE_MODEL": ModelSection}
    section: type[BaseModel] = sections.get(keys[0], ConfigFile) if len(keys) > 1 else ConfigFile
    known = section.model_fields
    if item["type"] == "extra_forbidden":
        return Problem(path=where, value=value, reason="unknown key", fix=f"remove it or use one of {', '.join(known)}")
    field = known.get(keys[-1]) if keys else None
    fix = "correct the value" if field is None else f"correct the value or leave it out (default: {field.default!r})"
    return Problem(path=where, value=value, reason=_reason(item), fix=fix)


def _reason(item: Mapping[str, Any]) -> str:
    """What is wrong, in our words."""
    words = _WORDS.get(str(item["type"]))
    return str(item["msg"]) if words is None else words.format(**item.get("ctx") or {})


def _port(value: str | None) -> int:
    if not value:
        return DEFAULT_PORT
    if not value.isdigit() or not 0 <= int(value) <= 65535:
        raise usage_error("PORT (environment)", value=repr(value), reason="not a port", fix="a number from 0 to 65535")
    return int(value)
