"""The library: shipped templates, mapping tables and rules, read and compiled once.

`load_library()` is the only place of rendering that reads files. The caller keeps what it returns and hands it to
`build()`; nothing is cached here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.resources.abc import Traversable

import yaml
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tandem.api.problems import refuse
from tandem.data import data_dir
from tandem.rendering.mapping import MappingError, MappingTable, extend, parse_mapping
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

    `tables`: backend → version → table. `templates`: backend → file name → template. `rules`: (set, backend) → file.
    """

    tables: Mapping[str, Mapping[str, MappingTable]]
    templates: Mapping[str, Mapping[str, YamlTemplate]]
    rules: Mapping[tuple[str, str], RuleFile]
    environment: ImmutableSandboxedEnvironment

    def table(self, backend: str, version: str | None) -> MappingTable:
        """The table of a backend's version, the preferred one for None; raises `Refused` for what is not known."""
        versions = self.tables.get(backend)
        if not versions:
            served = ", ".join(sorted(name for name, tables in self.tables.items() if tables))
            raise refuse("spec.backend", backend, "this backend is not served yet", f"Use one of: {served}.")
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
        found: dict[str, tuple[int, YamlTemplate]] = {}
        order = (*(f".{version}" for version in table.lineage), None)
        for name, template in self.templates[table.backend].items():
            match = _TEMPLATE.fullmatch(name)
            if match and match["ending"] and match["version"] in order:
                target, rank = match["stem"] + match["ending"], order.index(match["version"])
                if target not in found or rank < found[target][0]:
                    found[target] = (rank, template)
        return {target: template for target, (_, template) in sorted(found.items())}

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
        return replace(self, rules={**self.rules, (rule_set, backend): parsed})

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
        return replace(self, templates={**self.templates, backend: {**shipped, **compiled}})


def load_library(*, templates_dir: Traversable | None = None, rules_dir: Traversable | None = None) -> Library:
    """Reads and compiles the shipped data, or that of other directories; raises `Refused` naming the broken file."""
    environment = template_environment()
    documents: dict[str, dict[str, object]] = {}
    templates: dict[str, dict[str, YamlTemplate]] = {}
    for backend, entry in _data_files(templates_dir or data_dir("templates")):
        location = f"templates/{backend}/{entry.name}"
        if entry.name.startswith("flags."):  # what the engine accepts, for the tests
            continue
        text = entry.read_text(encoding="utf-8")
        if match := _MAPPING.fullmatch(entry.name):
            documents.setdefault(backend, {})[match["version"]] = _parsed(location, text)
        elif entry.name.endswith(".j2"):
            compiled = compile_template(environment, location=location, source=text)
            templates.setdefault(backend, {})[entry.name] = compiled
    tables = {backend: _tables(backend, versions) for backend, versions in documents.items()}
    return Library(tables, templates, dict(_rule_files(rules_dir or data_dir("rules"))), environment)


def _data_files(directory: Traversable) -> Iterator[tuple[str, Traversable]]:
    for backend in sorted(directory.iterdir(), key=lambda entry: entry.name):
        if backend.is_dir():
            for entry in sorted(backend.iterdir(), key=lambda entry: entry.name):
                yield backend.name, entry


def _parsed(location: str, text: str) -> object:
    try:
        return yaml.load(text, Loader=yaml.CSafeLoader)
    except yaml.YAMLError as error:
        raise refuse(location, None, f"malformed mapping file: {error}", "Correct it.") from error


def _tables(backend: str, documents: Mapping[str, object]) -> dict[str, MappingTable]:
    tables = {}
    for version in documents:
        location = f"templates/{backend}/mapping.{version}.yaml"
        try:
            table = parse_mapping(extend(version, documents))
        except (MappingError, KeyError, TypeError, AttributeError) as error:
            raise refuse(location, None, f"malformed mapping file: {error}", "Correct it.") from error
        if (table.backend, table.version) != (backend, version):
            shown = f"{table.backend} {table.version}"
            raise refuse(location, shown, "the file's name says otherwise", "Rename it.")
        tables[version] = table
    if sum(table.preferred for table in tables.values()) != 1:
        raise refuse(f"templates/{backend}", None, "exactly one mapping must say preferred: true", "Set it in one.")
    return tables


def _rule_files(directory: Traversable) -> Iterator[tuple[tuple[str, str], RuleFile]]:
    for rule_set, folder, label in (
        ("production", directory, "rules"),
        ("benchmark", directory / "benchmark", "rules/benchmark"),
    ):
        if not folder.is_dir():
            continue
        for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
            if entry.name.endswith(".rule"):
                text = entry.read_text(encoding="utf-8")
                yield (rule_set, entry.name.removesuffix(".rule")), parse_rules(text, f"{label}/{entry.name}")
