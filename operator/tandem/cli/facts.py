"""The option `--blueprint`: the facts of the model, from its files, as the operator would have them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from tandem.blueprint.model import Blueprint

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


def blueprint_option(command: Decorated) -> Decorated:
    """Adds the option; its value is a Blueprint, or None where it is not given."""
    return click.option(
        "--blueprint",
        metavar="PATH|FILE|REPO",
        callback=_read,
        help="Take the model's facts from its directory, config.json or repository.",
    )(command)


def _read(_ctx: click.Context, _parameter: click.Parameter, value: str | None) -> Blueprint | None:
    if value is None:
        return None
    from tandem.cli.model_files import read_blueprint

    return read_blueprint(value)
