"""Worker arguments of a deployment, and libraries made from texts instead of files. Pure."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import replace

from tandem.api.deployment import ModelDeployment
from tandem.blueprint.model import Blueprint
from tandem.generator.reading import read_data
from tandem.manifests.request import rendering_request
from tandem.rendering.lazy import with_values
from tandem.rendering.library import Library
from tandem.rendering.mapping import MappingTable
from tandem.rendering.mapping_file import extend, parse_mapping
from tandem.rendering.pipeline import ModelFacts, Rendering, render
from tandem.rendering.rules import parse_rules
from tandem.rendering.templates import compile_template, template_environment
from tandem.rendering.values import Argument, ParameterValue, RoleRendering

Flags = dict[str, dict[str, object]]
_REFERENCE = re.compile(r"\$\((\w+)\)")


def render_roles(
    deployment: ModelDeployment, *, facts: ModelFacts, blueprint: Blueprint, library: Library
) -> Rendering:
    """How the workers of each role are started; raises `Refused`."""
    return render(rendering_request(deployment, facts, blueprint), library)


def flags_of(role: RoleRendering) -> Flags:
    """`{parameter: {flag: value}}` of a role, without what needs no flag; a switch has the value True."""
    found = ((value.name, _flags(value)) for value in role.parameters)
    return {name: flags for name, flags in found if flags}


def _flags(value: ParameterValue) -> dict[str, object]:
    flags: dict[str, object] = {}
    items = list(value.arguments)
    while items:
        head = items.pop(0)
        if not head.startswith("-"):
            name, _, text = head.partition("=")  # a variable or a setting of the engine's file
            flags[name] = _plain(text)
            continue
        values = []
        while items and not items[0].startswith("--"):
            values.append(items.pop(0))
        name, sign, text = head.removeprefix("--").partition("=")
        if sign:
            values.insert(0, text)
        flags[name] = _typed(values, value.value)
    return flags


def _typed(texts: list[str], original: object) -> object:
    """The texts of a flag as the value they were made of, where they are that value's text."""
    if not texts:
        return True
    if isinstance(original, tuple) and texts in ([str(item) for item in original], [",".join(map(str, original))]):
        return list(original)
    if len(texts) > 1:
        return texts
    is_number = not isinstance(original, bool | str | tuple)
    return original if is_number and texts[0] == str(original) else texts[0]


def _plain(text: str) -> object:
    """A number, true, false or null as such, every other text as it is."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if isinstance(value, bool | int | float | None) else text


def shell_word(argument: Argument) -> str:
    """An argument as a shell reads it back: a text byte for byte, a reference as a variable."""
    return shlex.quote(argument) if isinstance(argument, str) else f'"${argument.name}"'


def shell_value(text: str) -> str:
    """A value of a pod's environment, with its references `$(NAME)`, as a shell reads it."""
    parts = _REFERENCE.split(text)
    words = [f'"${part}"' if index % 2 else shlex.quote(part) for index, part in enumerate(parts) if part]
    return "".join(words) or "''"


def library_of(
    *,
    mappings: Mapping[str, Mapping[str, str]],
    templates: Mapping[str, Mapping[str, str]],
    rules: Mapping[tuple[str, str], str] | None = None,
) -> Library:
    """A library from texts: mapping files by backend and version, templates by backend and file name, rules by set and
    backend. Raises `Refused` naming the broken one."""
    environment = template_environment()
    return Library(
        tables={
            backend: {
                version: mapping_table(text, f"{backend} {version}", versions) for version, text in versions.items()
            }
            for backend, versions in mappings.items()
        },
        templates={
            backend: {
                name: compile_template(environment, location=f"{backend}/{name}", source=text)
                for name, text in texts.items()
            }
            for backend, texts in templates.items()
        },
        rules={key: parse_rules(text, f"{key[0]}/{key[1]}.rule") for key, text in (rules or {}).items()},
        environment=environment,
    )


def mapping_table(text: str, location: str, versions: Mapping[str, str] | None = None) -> MappingTable:
    """The table of a mapping file, which may extend one of `versions` (texts by version); raises `Refused`."""
    documents = {version: read_data(other, location) for version, other in (versions or {}).items()}
    return table_of(read_data(text, location), location, documents)


def table_of(document: object, location: str, versions: Mapping[str, object] | None = None) -> MappingTable:
    """The table of a parsed mapping file, which may extend one of the parsed `versions`; raises `Refused`."""
    version = document.get("version") if isinstance(document, dict) else None
    own = version if isinstance(version, str) else ""
    return parse_mapping(extend(own, {**(versions or {}), own: document}, location), location)


def with_table(library: Library, table: MappingTable) -> Library:
    """The library in which `table` is the only one of its backend."""
    only = replace(table, preferred=True)
    return replace(library, tables=with_values(library.tables, {table.backend: {table.version: only}}))
