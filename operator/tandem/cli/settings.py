"""Command line options made from a settings dataclass, so that no option is declared twice."""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, fields
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

import click

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


class KeyValue(click.ParamType[tuple[str, str]]):
    """`NAME=VALUE`."""

    name = "name=value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        """Splits at the first `=`."""
        key, separator, rest = str(value).partition("=")
        if not (key and separator and rest):
            self.fail(f"{value!r} is not of the form {self.name.upper()}", param, ctx)
        return key, rest


class BackendImage(KeyValue):
    """`BACKEND=IMAGE`."""

    name = "backend=image"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        """Refuses what is no backend: an image for it would never be used."""
        from tandem.api.deployment import Backend

        backend, image = super().convert(value, param, ctx)
        known = typing.get_args(Backend)
        if backend not in known:
            self.fail(f"{backend!r} is no backend; there are {', '.join(known)}", param, ctx)
        return backend, image


def options_from(settings: type, *, documented: Mapping[str, str]) -> Callable[[Decorated], Decorated]:
    """A decorator that gives a command one option per field of the dataclass `settings` (texts, numbers, paths, enums).

    `documented` holds the help text of a field; a field without one is an option all the same, told by its name.
    Fields without default are required. Option values are the arguments of `settings`.
    """
    hints = typing.get_type_hints(settings)

    def decorate(command: Decorated) -> Decorated:
        for field in reversed(fields(settings)):
            command = _option(field, _without_none(hints[field.name]), documented.get(field.name))(command)
        return command

    return decorate


def _option(field: Field[Any], hint: Any, text: str | None) -> Callable[[Decorated], Decorated]:
    flag = f"--{field.name.replace('_', '-')}"
    kind = _parameter_type(hint)
    if field.default is MISSING:
        return click.option(flag, field.name, type=kind, required=True, help=text)
    default = field.default.value if isinstance(field.default, Enum) else field.default
    return click.option(flag, field.name, type=kind, default=default, show_default=default is not None, help=text)


def _without_none(hint: Any) -> Any:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return next(part for part in typing.get_args(hint) if part is not type(None))
    return hint


def _parameter_type(hint: Any) -> Any:
    if isinstance(hint, type) and issubclass(hint, Enum):
        return click.Choice([member.value for member in hint])
    return click.Path(path_type=Path) if hint is Path else hint
