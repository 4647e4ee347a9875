"""`tandem generator`: flags and files from an input file and single values, as JSON on standard output."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click

from tandem.api.problems import Refused
from tandem.cli.texts import terminal_width, told_at

EXIT_REFUSED = 2
_ROLES = ("auto", "prefill", "decode", "agg", "all")
_SECTIONS = ("all", "deploy", "backend")
Decorated = TypeVar("Decorated", bound=Callable[..., Any])


def _print_help(context: click.Context, _parameter: click.Parameter, section: str | None) -> None:
    if section is None or context.resilient_parsing:
        return
    from tandem.generator.reference import help_text, reference
    from tandem.generator.schemas import load_schema
    from tandem.rendering.library import load_library

    text = help_text(reference(load_library(), load_schema()), section, width=terminal_width())
    click.echo(text, nl=False)
    context.exit()


_help_option = click.option(
    "--generator-help",
    is_flag=False,
    flag_value="all",
    type=click.Choice(_SECTIONS),
    expose_value=False,
    is_eager=True,
    callback=_print_help,
    help="Print the keys of inputs (deploy), the flags of backends (backend), or both, and exit.",
)
_OPTIONS = (
    click.option("--backend", required=True, metavar="BACKEND", help="torch, vllm, sglang or trtllm."),
    click.option(
        "--version", "backend_version", metavar="V", help="Version of the backend; default: the preferred one."
    ),
    click.option("--config", "config_path", type=click.Path(path_type=Path), metavar="F", help="YAML file of groups."),
    click.option("--set", "items", multiple=True, metavar="KEY=VALUE", help="A value over the file; repeatable."),
    click.option("--set-string", "texts", multiple=True, metavar="KEY=TEXT", help="The same, never cast."),
    click.option("--mapping", type=click.Path(path_type=Path), metavar="F", help="A mapping file of your own."),
    _help_option,
)


def _inputs(command: Decorated) -> Decorated:
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@click.group("generator", short_help="Flags and files of a backend from one input file.")
@_help_option
def command() -> None:
    """Turns an input of unified parameters into a backend's flags and files. Prints JSON and nothing else on standard
    output; mistakes go to standard error, and the exit code is 2."""


@command.command("render-config")
@_inputs
@click.option("--role", type=click.Choice(_ROLES), default="auto", show_default=True, help="auto: the mode's roles.")
def render_config(*, role: str, **options: Any) -> None:
    """Prints {role: {parameter: {flag: value}}}: what each worker's command line gets, and why."""
    from tandem.generator.calls import backend_configs

    with _refusals():
        library, params = _prepare(**options)
        found = backend_configs(params, options["backend"], backend_version=options["backend_version"], library=library)
        configs = {name: flags for name, flags in found.items() if name == role} or dict(found)
        if role not in (*found, "auto", "all"):
            click.echo(f"warning: --role {role}: the input has no such role; showing {', '.join(configs)}", err=True)
        click.echo(json.dumps(configs, indent=2))


@command.command("render-artifacts")
@_inputs
@click.option(
    "--templates-dir", type=click.Path(path_type=Path), metavar="D", help="Templates that replace shipped ones."
)
@click.option("--output", type=click.Path(path_type=Path), required=True, metavar="O", help="Directory for the files.")
def render_artifacts(*, templates_dir: Path | None, output: Path, **options: Any) -> None:
    """Writes run scripts, engine files and Kubernetes objects, and prints {file: text}."""
    from tandem.generator.artifacts import is_written
    from tandem.generator.calls import generate_backend_artifacts

    with _refusals():
        library, params = _prepare(**options)
        artifacts = generate_backend_artifacts(
            params,
            options["backend"],
            templates_dir=templates_dir,
            output_dir=output,
            backend_version=options["backend_version"],
            mapping_path=options["mapping"],
            library=library,
        )
        click.echo(json.dumps({name: text for name, text in artifacts.items() if is_written(name)}, indent=2))


def _prepare(
    *,
    backend: str,
    backend_version: str | None,
    config_path: Path | None,
    items: tuple[str, ...],
    texts: tuple[str, ...],
    mapping: Path | None,
) -> tuple[Any, Any]:
    """The library and the parameters that the options describe; raises `Refused`."""
    from tandem.generator.calls import prepare_generator_params, with_mapping_of
    from tandem.generator.overrides import parse_overrides
    from tandem.generator.schemas import load_schema
    from tandem.generator.translate import relocated
    from tandem.rendering.library import load_library

    library = load_library()
    if mapping is not None:
        library, _ = with_mapping_of(library, mapping, backend)
    with relocated():
        library.table(backend, backend_version)
    overrides = parse_overrides(items, texts=texts, schema=load_schema())
    return library, prepare_generator_params(config_path, overrides, backend=backend, library=library)


@contextmanager
def _refusals() -> Iterator[None]:
    try:
        with told_at({"backend": "--backend", "version": "--version"}):
            yield
    except Refused as refused:
        for problem in refused.problems:
            click.echo(f"error: {problem}", err=True)
        click.get_current_context().exit(EXIT_REFUSED)
