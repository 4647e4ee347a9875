"""Arguments that a user passes on as they are: which of them cannot be, and which have a better place."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence

from pydantic.alias_generators import to_camel

from tandem.api.problems import Problem, shorten
from tandem.rendering.mapping import Entry, MappingTable
from tandem.rendering.values import Argument, ParameterValue, as_text


def flag_name(argument: str) -> str | None:
    """The flag's name in an argument (`--max_num_seqs=3` → `--max-num-seqs`), None when it is no flag."""
    if not argument.startswith("-") or argument in ("-", "--"):
        return None
    return argument.split("=", 1)[0].split(".", 1)[0].replace("_", "-")


def given_flags(command: Sequence[Argument], flags: frozenset[str]) -> list[list[str]]:
    """The flags in `flags` with everything up to the next flag, sorted; a repeated flag keeps its order."""
    found: list[list[str]] = []
    keep = False
    for item in command:
        if not isinstance(item, str):
            continue
        name = flag_name(item)
        if name is not None:
            keep = name in flags
            if keep:
                found.append([name, *item.split("=", 1)[1:]])
        elif keep:
            found[-1].append(item)
    return sorted(found, key=lambda entry: entry[0])


def reserved_problems(arguments: Sequence[str], path: str, table: MappingTable, mode: str) -> Iterator[Problem]:
    """Flags that the deployment depends on, abbreviated or not."""
    for where, argument, flag in _flags(arguments, path):
        if _is_reserved(flag, table, mode):
            mapped = _mapped(table)
            reason = "this flag is set by Tandem: another value would cut the worker off from its Service or its peers"
            fix = f"Give {mapped[flag][1]} in parameters instead." if flag in mapped else "Remove it."
            yield Problem(where, shorten(argument), reason, fix, argument)


def unknown_problems(arguments: Sequence[str], path: str, table: MappingTable, mode: str) -> Iterator[Problem]:
    """Flags that the server would end with, where the table names all that it has."""
    if not table.passed or not arguments:
        return
    known = sorted({*table.passed, *_mapped(table)} - table.reserved[mode])
    for where, argument, flag in _flags(arguments, path):
        if flag not in known and not _is_reserved(flag, table, mode):
            found = difflib.get_close_matches(flag, known, n=1)
            fix = f"Did you mean {found[0]}?" if found else f"Known: {', '.join(sorted(table.passed))}."
            yield Problem(where, shorten(argument), "the server has no such argument", fix, argument)


def repeated_problems(
    arguments: Sequence[str], path: str, table: MappingTable, *, mode: str, parameters: Sequence[ParameterValue]
) -> Iterator[Problem]:
    """Flags of parameters that have a value already: the engine would take one, and the status tell the other."""
    values = {value.name: value for value in parameters}
    for where, argument, name, instead in _of_parameters(arguments, path, table):
        if name in values and not _is_reserved(flag_name(argument) or "", table, mode):
            value = values[name]
            reason = f"{to_camel(name)} is {value.text} already, by {value.source} {value.detail}"
            yield Problem(where, shorten(argument), reason, f"Give {instead} in parameters instead.", argument)


def extra_warnings(
    arguments: Sequence[str], path: str, table: MappingTable, parameters: Sequence[ParameterValue]
) -> Iterator[str]:
    """What works, but would be better given as a parameter."""
    values = {value.name for value in parameters}
    for where, argument, name, instead in _of_parameters(arguments, path, table):
        if name not in values:
            flag = flag_name(argument)
            yield f"{where}: {flag} is that of a parameter: give {instead} in parameters, for rules and status"


def _is_reserved(flag: str, table: MappingTable, mode: str) -> bool:
    return any(name.startswith(flag) for name in table.reserved[mode])


def _of_parameters(arguments: Sequence[str], path: str, table: MappingTable) -> Iterator[tuple[str, str, str, str]]:
    """(place, argument, parameter, what to write) of each flag that a parameter has."""
    if not arguments:
        return
    mapped = _mapped(table)
    for where, argument, flag in _flags(arguments, path):
        if flag in mapped:
            yield (where, argument, *mapped[flag])


def _flags(arguments: Sequence[str], path: str) -> Iterator[tuple[str, str, str]]:
    for index, argument in enumerate(arguments):
        flag = flag_name(argument)
        if flag is not None:
            yield f"{path}[{index}]", argument, flag


def _mapped(table: MappingTable) -> dict[str, tuple[str, str]]:
    """(parameter, what to write) by the flag that it becomes."""
    found: dict[str, tuple[str, str]] = {}
    for name, entry in table.entries.items():
        for flag, value in _flags_of(entry):
            found.setdefault(flag, (name, f"{to_camel(name)}: {value}" if value else to_camel(name)))
    return found


def _flags_of(entry: Entry) -> Iterator[tuple[str, str]]:
    """(flag, the value that becomes it or nothing when it takes the value itself)."""
    if entry.flag is not None and (flag := flag_name(entry.flag)):
        yield flag, ""
    if entry.setting is not None and "." not in entry.setting:
        yield f"--{entry.setting.replace('_', '-')}", ""  # the same name on the command line
    for value, arguments in (entry.cases or {}).items():
        if arguments and (flag := flag_name(arguments[0])):
            yield flag, as_text(value)
