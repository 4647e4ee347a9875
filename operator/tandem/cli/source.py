"""The file that a command is about, and the deployments in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from tandem.api.deployment import ModelDeployment
    from tandem.api.load import Loaded
    from tandem.manifests import Cluster
    from tandem.rendering.library import Library
    from tandem.rendering.mapping import Entry

Decorated = TypeVar("Decorated", bound=Callable[..., object])


def file_option(text: str, *, required: bool = True) -> Callable[[Decorated], Decorated]:
    """The option `-f FILE`; `-` stands for standard input."""
    # click itself would take the last of several and drop the others in silence.
    settings: dict[str, Any] = {"required": required, "multiple": True, "callback": _path, "metavar": "FILE"}
    return click.option("-f", "--file", help=f"{text}; - for stdin.", **settings)


def _path(_ctx: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> Path | None:
    from tandem.api.load import STANDARD_INPUT

    if len(values) > 1:
        raise click.BadParameter("give it once; several resources may stand in one file, with --- between them")
    return None if not values else STANDARD_INPUT if values[0] == "-" else Path(values[0])


def deployments_in(
    file: Path, library: Library, *, asks_cluster: bool = False
) -> tuple[tuple[ModelDeployment, Loaded], ...]:
    """The ModelDeployments of a file, at least one, each with where it stands; raises `Refused`.

    ModelBlueprints that they refer to must be in the file, too, unless the caller `asks_cluster` for them.
    """
    from tandem.api.deployment import ModelDeployment
    from tandem.api.load import load, source_name
    from tandem.api.problems import refuse

    loaded = load(file, hints=engine_hints(library))
    found = tuple(
        (each.resource if asks_cluster else resolved(each, loaded), each)
        for each in loaded
        if isinstance(each.resource, ModelDeployment)
    )
    if not found:
        fix = "Only a ModelDeployment has objects."
        raise refuse(source_name(file), None, "the file holds no ModelDeployment", fix)
    return found


def resolved(deployment: Loaded, loaded: Sequence[Loaded]) -> ModelDeployment:
    """A loaded ModelDeployment, with the weights of the ModelBlueprint in the same file that it refers to."""
    from tandem.api.deployment import ModelDeployment
    from tandem.api.resources import ModelBlueprint
    from tandem.manifests.sources import with_weights

    resource = deployment.resource
    if not isinstance(resource, ModelDeployment):
        raise TypeError(f"a ModelDeployment is needed here, not a {resource.kind}")
    reference = resource.spec.model.blueprint_ref
    if reference is None:
        return resource
    named = [each.resource for each in loaded if each.resource.metadata.name == reference.name]
    specs = [each.spec for each in named if isinstance(each, ModelBlueprint)]
    source = specs[0].from_.as_manifest() if specs and specs[0].from_ else {} if specs else None
    with deployment.locating():
        return with_weights(resource, source, "no cluster is asked here, and the file holds no such ModelBlueprint")


def check_directories(deployment: ModelDeployment, cluster: Cluster) -> None:
    """Raises `Refused` for a ConfigMap that the deployment names and whose files were not given."""
    from tandem.api.problems import Problem, Refused

    spec = deployment.spec
    named = (
        ("rules", spec.rules and spec.rules.config_map_ref, cluster.rules),
        ("templates", spec.templates and spec.templates.config_map_ref, cluster.templates),
    )
    reason = "no cluster is asked here, so the ConfigMap's files must be given"
    problems = [
        Problem(f"spec.{what}.configMapRef", reference.name, reason, f"Add --{what} DIR, a directory with them.")
        for what, reference, texts in named
        if reference and not texts
    ]
    if problems:
        raise Refused(problems)


def engine_hints(library: Library) -> Mapping[str, str]:
    """What to write instead of an engine's own name of a parameter (`max-model-len`), from the mapping tables.

    The tables of all backends are read when a mistake is told: a file without one does not need them.
    """
    from tandem.rendering.lazy import Late

    return Late(lambda: _engine_hints(library))


def _engine_hints(library: Library) -> Mapping[str, str]:
    from pydantic.alias_generators import to_camel

    hints: dict[str, dict[str, None]] = {}
    for versions in library.tables.values():
        for table in versions.values():
            for name, entry in table.entries.items():
                for flag, text in _engine_names(to_camel(name), entry):
                    hints.setdefault(_simplified_flag(flag), {})[text] = None
    # A parameter that somewhere takes the value itself needs no words for single values.
    return {
        flag: " or ".join(text for text in texts if ":" not in text or text.split(":")[0] not in texts)
        for flag, texts in hints.items()
    }


def _engine_names(name: str, entry: Entry) -> Iterator[tuple[str, str]]:
    """(an engine's name, what to write) for everything that the parameter becomes; of a setting also its last part."""
    for engine_name in (entry.flag, entry.env, entry.setting):
        if engine_name is not None:
            yield engine_name, name
            yield engine_name.rpartition(".")[2], name
    for value, arguments in (entry.cases or {}).items():
        if arguments:
            yield arguments[0], f"{name}: {value}"
    settings = [(setting, value) for value, made in entry.case_settings.items() for setting in made]
    for setting, value in settings:
        by_all = sum(other == setting for other, _ in settings) > 1
        yield setting.rpartition(".")[2], name if by_all else f"{name}: {value}"


def _simplified_flag(flag: str) -> str:
    from tandem.api.mistakes import simplified

    return simplified(flag.split("=", 1)[0])
