"""The library: shipped templates, mapping tables and rules, each read and compiled when it is first needed.

`load_library()` is the only place of rendering that reads files. The caller keeps what it returns and hands it to
`build()`; nothing is kept here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from importlib.resources.abc import Traversable

import yaml
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tandem.api.problems import refuse
from tandem.data import data_dir
from tandem.rendering.lazy import Lazy, with_values
from tandem.rendering.mapping import MappingTable
from tandem.rendering.mapping_file import extend, parse_mapping
from tandem.rendering.rules import RuleFile, parse_rules
from tandem.rendering.templates import YamlTemplate, compile_template, template_environment

ARGUMENTS_TEMPLATE = "cli_args"
RULE_SETS = ("production", "benchmark")
_NO_RULES = RuleFile()
_MAPPING = re.compile(r"mapping\.(?P<version>.+)\.yaml")
_TEMPLATE = re.compile(
    r"(?P<stem>[a-z0-9_-]+)(?P<version>\.[0-9][-+._A-Za-z0-9]*?)?(?P<ending>\.(?:ya?ml|json|sh))?\.j2"
)


@dataclass(frozen=True, slots=True)
class Library:
    """Everything that rendering looks things up in; a value, safe to share between threads.

    Its mappings make what they hold when it is first looked up, once.

    `tables`: backend → version → table. `templates`: backend → file name → template. `rules`: (set, backend) → file.
    """

    tables: Mapping[str, Mapping[str, MappingTable]]
    templates: Mapping[str, Mapping[str, YamlTemplate]]
    rules: Mapping[tuple[str, str], RuleFile]
    environment: ImmutableSandboxedEnvironment

    def table(self, backend: str, version: str | None) -> MappingTable:
        """The table of a backend's version, the preferred one for None; raises `Refused` for what is not known."""
        if backend not in self.tables:
            served = ", ".join(sorted(self.tables))
            raise refuse("spec.backend", backend, "this backend is not served yet", f"Use one of: {served}.")
        versions = self.tables[backend]
        if version is None:
            return next(table for table in versions.values() if table.preferred)
        if version not in versions:
            reason = f"this version of {backend} is not known"
            raise refuse("spec.backendVersion", version, reason, f"Use one of: {', '.join(sorted(versions))}.")
        return versions[version]

    def arguments(self, table: MappingTable) -> YamlTemplate:
        """The template of the command line."""
        templates = self.templates[table.backend]
        wanted = [f"{ARGUMENTS_TEMPLATE}.{version}.j2" for version in table.lineage]
        found = next((templates[name] for name in (*wanted, f"{ARGUMENTS_TEMPLATE}.j2") if name in templates), None)
        if found is None:
            where = f"templates/{table.backend}"
            raise refuse(where, None, f"no {ARGUMENTS_TEMPLATE} template for {table.version}", "Add one.")
        return found

    def files(self, table: MappingTable) -> Mapping[str, YamlTemplate]:
        """The templates of configuration files, by the name of the file that they become."""
        found: dict[str, tuple[int, str]] = {}
        order = (*(f".{version}" for version in table.lineage), None)
        templates = self.templates[table.backend]
        for name in templates:
            match = _TEMPLATE.fullmatch(name)
            if match and match["ending"] and match["version"] in order:
                target, rank = match["stem"] + match["ending"], order.index(match["version"])
                if target not in found or rank < found[target][0]:
                    found[target] = (rank, name)
        return {target: templates[name] for target, (_, name) in sorted(found.items())}

    def rule_file(self, rule_set: str, backend: str) -> RuleFile:
        """The rules of a set for a backend; an empty file when there are none."""
        return self.rules.get((rule_set, backend), _NO_RULES)

    def with_rules(self, *, backend: str, rule_set: str, texts: Mapping[str, str], label: str, path: str) -> Library:
        """The library with the rule file of a ConfigMap (`label`, named at `path`) in place of the shipped one."""
        wanted = f"{backend}.rule"
        if wanted not in texts:
            reason = f"{label} has no entry {wanted}"
            raise refuse(path, ", ".join(sorted(texts)) or "no entries", reason, f"Add the entry {wanted}.")
        known = [f"{name}.rule" for name in sorted(self.tables)]
        unknown = sorted(set(texts) - set(known))
        if unknown:
            reason = f"{label} has entries that are rules of no backend"
            raise refuse(path, ", ".join(unknown), reason, f"Remove them; rule files are: {', '.join(known)}.")
        parsed = parse_rules(texts[wanted], f"{label}/{wanted}")
        return replace(self, rules=with_values(self.rules, {(rule_set, backend): parsed}))

    def with_templates(self, *, backend: str, texts: Mapping[str, str], label: str, path: str) -> Library:
        """The library with a ConfigMap's templates in place of shipped ones of the same name."""
        shipped = self.templates[backend]
        unknown = sorted(set(texts) - set(shipped))
        if unknown or not texts:
            reason = f"{label} has entries that replace no template" if unknown else f"{label} has no entries"
            raise refuse(path, ", ".join(unknown), reason, f"Templates of {backend}: {', '.join(sorted(shipped))}.")
        compiled = {
            name: compile_template(self.environment, location=f"{label}/{name}", source=text)
            for name, text in sorted(texts.items())
        }
        return replace(self, templates=with_values(self.templates, {backend: with_values(shipped, compiled)}))

    def complete(self) -> Library:
        """The library with everything read and compiled; raises `Refused` naming the first broken file."""
        return replace(
            self,
            tables={backend: dict(tables) for backend, tables in self.tables.items()},
            templates={backend: dict(templates) for backend, templates in self.templates.items()},
            rules=dict(self.rules),
        )


def load_library(*, templates_dir: Traversable | None = None, rules_dir: Traversable | None = None) -> Library:
    """The shipped data, or that of other directories.

    A broken file is told, with `Refused`, when it is first needed; `Library.complete` reads all at once.
    """
    environment = template_environment()
    backends = {folder.name: _files(folder) for folder in _folders(templates_dir or data_dir("templates"))}
    return Library(
        tables=Lazy({backend: partial(_tables, backend, files) for backend, files in backends.items()}),
        templates=Lazy(
            {backend: partial(_templates, environment, backend, files) for backend, files in backends.items()}
        ),
        rules=Lazy({key: partial(_rules, *found) for key, found in _rule_files(rules_dir or data_dir("rules"))}),
        environment=environment,
    )


def _folders(directory: Traversable) -> list[Traversable]:
    return [entry for entry in _sorted(directory) if entry.is_dir()]


def _files(folder: Traversable) -> list[Traversable]:
    # flags.* tell the tests what the engine accepts.
    return [entry for entry in _sorted(folder) if not entry.name.startswith("flags.")]


def _sorted(directory: Traversable) -> list[Traversable]:
    return sorted(directory.iterdir(), key=lambda entry: entry.name)


def _templates(
    environment: ImmutableSandboxedEnvironment, backend: str, files: Iterable[Traversable]
) -> Mapping[str, YamlTemplate]:
    return Lazy(
        {file.name: partial(_template, environment, backend, file) for file in files if file.name.endswith(".j2")}
    )


def _template(environment: ImmutableSandboxedEnvironment, backend: str, file: Traversable) -> YamlTemplate:
    location = f"templates/{backend}/{file.name}"
    return compile_template(environment, location=location, source=file.read_text(encoding="utf-8"))


def _tables(backend: str, files: Iterable[Traversable]) -> dict[str, MappingTable]:
    found = ((_MAPPING.fullmatch(file.name), file) for file in files)
    documents = {match["version"]: _parsed(backend, file) for match, file in found if match}
    tables = {version: _table(backend, version, documents) for version in documents}
    if sum(table.preferred for table in tables.values()) != 1:
        raise refuse(f"templates/{backend}", None, "exactly one mapping must say preferred: true", "Set it in one.")
    return tables


def _parsed(backend: str, file: Traversable) -> object:
    try:
        return yaml.load(file.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
    except yaml.YAMLError as error:
        location = f"templates/{backend}/{file.name}"
        raise refuse(location, None, f"malformed mapping file: {error}", "Correct it.") from error


def _table(backend: str, version: str, documents: Mapping[str, object]) -> MappingTable:
    location = f"templates/{backend}/mapping.{version}.yaml"
    table = parse_mapping(extend(version, documents, location), location)
    if (table.backend, table.version) != (backend, version):
        shown = f"{table.backend} {table.version}"
        raise refuse(location, shown, "the file's name says otherwise", "Rename it.")
    return table


def _rule_files(directory: Traversable) -> Iterator[tuple[tuple[str, str], tuple[Traversable, str]]]:
    """(set, backend) of each rule file, with the file and its name in messages."""
    for rule_set, folder, label in (
        ("production", directory, "rules"),
        ("benchmark", directory / "benchmark", "rules/benchmark"),
    ):
        if not folder.is_dir():
            continue
        for file in _sorted(folder):
            if file.name.endswith(".rule"):
                yield (rule_set, file.name.removesuffix(".rule")), (file, f"{label}/{file.name}")


def _rules(file: Traversable, location: str) -> RuleFile:
    return parse_rules(file.read_text(encoding="utf-8"), location)
