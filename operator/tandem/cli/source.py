"""The file that a command is about, and the deployments in it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from tandem.api.deployment import ModelDeployment

Decorated = TypeVar("Decorated", bound=Callable[..., Any])
STANDARD_INPUT = Path("/dev/stdin")


def file_option(text: str) -> Callable[[Decorated], Decorated]:
    """The option `-f FILE`; `-` stands for standard input."""
    return click.option("-f", "--file", required=True, callback=_path, metavar="FILE", help=f"{text}; - for stdin.")


def _path(_ctx: click.Context, _parameter: click.Parameter, value: str) -> Path:
    return STANDARD_INPUT if value == "-" else Path(value)


def deployments_in(file: Path) -> tuple[ModelDeployment, ...]:
    """The ModelDeployments of a file, at least one; raises `Refused`."""
    from tandem.api.deployment import ModelDeployment
    from tandem.api.load import load_file
    from tandem.api.problems import refuse

    found = tuple(resource for resource in load_file(file) if isinstance(resource, ModelDeployment))
    if not found:
        raise refuse(str(file), None, "the file holds no ModelDeployment", "Only a ModelDeployment has objects.")
    return found
