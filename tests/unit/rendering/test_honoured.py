"""Parameter x value x backend x version x mode: honoured to the last argument, or refused with reason and advice."""

import pytest
from pydantic import ValidationError

from tandem.api.parameters import EngineParameters
from tandem.api.problems import Refused
from tandem.rendering.library import load_library
from tandem.rendering.mapping import PARAMETER_NAMES, Unsupported
from tandem.rendering.parameters import Given
from tandem.rendering.pipeline import ModelFacts, Request, RoleRequest, render
from tandem.rendering.values import as_text
from tests.unit.yaml_text import read

LIBRARY = load_library()
TABLES = [
    (backend, version, mode)
    for backend, tables in LIBRARY.tables.items()
    for version in tables
    for mode in ("agg", "disagg")
]
PATH = "spec.parameters.x"


def fits(name, value):
    try:
        EngineParameters.model_validate({name: value}, by_name=True, by_alias=False)
    except ValidationError:
        return False
    return True


def values_of(name):
    """Values of every kind that the parameter can have, and every word that some backend has for it."""
    entries = [table.entries[name] for tables in LIBRARY.tables.values() for table in tables.values()]
    words = {word for entry in entries for word in (*(entry.values or ()), *(entry.cases or ()))}
    return [value for value in (True, False, 1, 2, 64, 0.5, (1, 2, 8), "nonsense", *sorted(words)) if fits(name, value)]


VALUES = {name: values_of(name) for name in PARAMETER_NAMES}


def rendered(backend, version, mode, name, value):
    """The rendering, or the problems for which there is none."""
    given = {name: Given(value, "parameters", PATH)}
    roles = ("agg",) if mode == "agg" else ("prefill", "decode")
    request = Request(
        backend=backend,
        version=version,
        mode=mode,
        rule_set="production",
        roles=tuple(RoleRequest(name=role, given=given) for role in roles),
        model=ModelFacts(path="/models/m", served_name="m"),
        names={"port": 8000, "config_dir": "/etc/tandem"},
    )
    try:
        return render(request, LIBRARY)
    except Refused as told:
        return told.problems


def holds(role, item, target):
    """Whether everything that the value became is in the command line, the environment or the engine's file."""
    files = [read(text) for text in role.files.values()]
    flags = " ".join(str(word) for word in role.command)
    return (
        " ".join(target.arguments) in flags
        and all(role.environment[name] == text for name, text in target.environment)
        and all(any(at(tree, name) == plain(value) for tree in files) for name, value in target.settings)
    )


def at(tree, dotted):
    for part in dotted.split("."):
        tree = tree[part] if isinstance(tree, dict) and part in tree else {}
    return tree


def plain(value):
    return list(value) if isinstance(value, tuple) else value


@pytest.mark.parametrize(("backend", "version", "mode"), TABLES)
def test_every_value_is_honoured_to_the_last_argument_or_refused_with_advice(backend, version, mode):
    table = LIBRARY.table(backend, version)
    honoured = refused = 0
    for name, values in VALUES.items():
        for value in values:
            found = rendered(backend, version, mode, name, value)
            if isinstance(found, tuple):
                assert any(problem.path == PATH and problem.value for problem in found), (name, value)
                assert all(len(problem.reason) > 10 and problem.fix for problem in found), (name, value)
                refused += 1
                continue
            honoured += 1
            entry = table.entries[name]
            for role in found.roles:
                (item,) = (each for each in role.parameters if each.name == name)
                target = entry.target(value, mode)
                assert item.value == value
                assert holds(role, item, target), (name, value, role.command)
                # What becomes nothing is what the engine does anyway, and the table says so for this very value.
                assert target.shown or as_text(value) in (entry.cases or {}), (name, value)
                assert (target.note in " ".join(role.warnings)) is True
    assert honoured > 10
    assert refused > 10


@pytest.mark.parametrize(("backend", "version", "mode"), TABLES)
def test_what_no_value_can_have_is_refused_for_every_value(backend, version, mode):
    for name, entry in LIBRARY.table(backend, version).entries.items():
        if not entry.supported or entry.mode not in (None, mode):
            assert all(isinstance(entry.target(value, mode), Unsupported) for value in VALUES[name])
