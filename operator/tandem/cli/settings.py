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
        if isinstance(value, tuple):
            return value
        key, separator, rest = str(value).partition("=")
        if not (key and separator and rest):
            self.fail(f"{value!r} is not of the form NAME=VALUE", param, ctx)
        return key, rest


def options_from(settings: type, *, documented: Mapping[str, str]) -> Callable[[Decorated], Decorated]:
    """A decorator that gives a command one option per field of the dataclass `settings`.

    `documented` holds the help text of a field; a field without one is an option all the same, told by its name.
    Fields without default are required. `bool` makes `--x/--no-x`; tuples and mappings make repeatable options.
    """
    hints = typing.get_type_hints(settings)

    def decorate(command: Decorated) -> Decorated:
        for field in reversed(fields(settings)):
            command = _option(field, hints[field.name], documented.get(field.name))(command)
        return command

    return decorate


def settings_from(settings: type[Any], values: Mapping[str, Any]) -> Any:
    """An instance of `settings` from the values of its options; `Refused` comes from the class itself."""
    mappings = {name for name, hint in typing.get_type_hints(settings).items() if typing.get_origin(hint) in _MAPPINGS}
    return settings(**{name: dict(value) if name in mappings else value for name, value in values.items()})


_MAPPINGS = (dict, Mapping)


def _option(field: Field[Any], hint: Any, text: str | None) -> Callable[[Decorated], Decorated]:
    name = field.name.replace("_", "-")
    required = field.default is MISSING and field.default_factory is MISSING
    default = None if field.default is MISSING else field.default
    inner = _without_none(hint)
    common: dict[str, Any] = {"help": text, "required": required}
    if inner is bool:
        return click.option(f"--{name}/--no-{name}", field.name, default=default, show_default=not required, **common)
    if typing.get_origin(inner) in _MAPPINGS:
        return click.option(f"--{name}", field.name, type=KeyValue(), multiple=True, **common)
    if typing.get_origin(inner) is tuple:
        return click.option(f"--{name}", field.name, multiple=True, **common)
    return click.option(
        f"--{name}",
        field.name,
        type=_parameter_type(inner),
        default=default.value if isinstance(default, Enum) else default,
        show_default=default is not None,
        **common,
    )


def _without_none(hint: Any) -> Any:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return next(part for part in typing.get_args(hint) if part is not type(None))
    return hint


def _parameter_type(hint: Any) -> Any:
    if isinstance(hint, type) and issubclass(hint, Enum):
        return click.Choice([member.value for member in hint])
    if typing.get_origin(hint) is typing.Literal:
        return click.Choice([str(value) for value in typing.get_args(hint)])
    if hint is Path:
        return click.Path(path_type=Path)
    return hint
