"""Everything that is rendered exists in that version of the engine, by the engine's own definitions (flags.*.yaml)."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tandem.api.parameters import EngineParameters
from tandem.api.problems import Refused
from tandem.data import data_dir
from tandem.rendering.library import Library
from tandem.rendering.mapping import PARAMETER_NAMES, MappingTable, Unsupported
from tandem.rendering.parameters import Given
from tandem.rendering.pipeline import ModelFacts, Rendering, Request, RoleRequest, render
from tests.unit.yaml_text import read

VERSIONS = [
    *(("vllm", version) for version in ("0.32.0", "0.33.0")),
    *(("sglang", version) for version in ("0.5.22", "0.5.23")),
    *(("trtllm", version) for version in ("1.2.1", "1.3.0rc27")),
]
MANY = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
_CONVERT = {"int": int, "float": float, "text": str, "json": yaml.safe_load}
_KINDS: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (int, float),
    "bool": (bool,),
    "text": (str,),
    "list": (list,),
    "mapping": (dict, type(None)),
}
_DOCUMENTS: dict[tuple[str, str], dict[str, Any]] = {}


def accepted(backend: str, version: str) -> dict[str, Any]:
    """What the version accepts."""
    key = (backend, version)
    if key not in _DOCUMENTS:
        text = (data_dir("templates") / backend / f"flags.{version}.yaml").read_text(encoding="utf-8")
        _DOCUMENTS[key] = yaml.load(text, Loader=yaml.CSafeLoader)
    return _DOCUMENTS[key]


def check_arguments(arguments: list[str], flags: dict[str, Any]) -> None:
    """Reads arguments as the engine's parser would: every flag exists and takes what follows it."""
    by_name = {name: entry for first, entry in flags.items() for name in (first, *entry.get("also", ()))}
    seen = set()
    at = 0
    while at < len(arguments):
        name = arguments[at]
        assert name in by_name, f"{name} does not exist"
        assert name not in seen, f"{name} comes twice"
        seen.add(name)
        entry = by_name[name]
        stop = at + 1
        while stop < len(arguments) and not arguments[stop].startswith("--"):
            stop += 1
        values = arguments[at + 1 : stop]
        assert (len(values) > 0) if entry["takes"] == "+" else len(values) == entry["takes"], f"{name} {values}"
        for value in values:
            _CONVERT[entry["kind"]](value)
            assert value in entry.get("choices", [value]), f"{name} does not take {value}"
        at = stop


def check_settings(tree: dict[str, Any], known: dict[str, Any], prefix: str = "") -> None:
    """Every key of a settings file exists and has a value of its kind."""
    for key, value in tree.items():
        entry = known[prefix + key]
        assert isinstance(value, _KINDS[entry["kind"]]), f"{prefix}{key}: {value!r}"
        assert entry["kind"] == "bool" or not isinstance(value, bool), f"{prefix}{key}: {value!r}"
        assert value in entry.get("choices", [value]), f"{prefix}{key}: {value!r}"
        if isinstance(value, dict):
            check_settings(value, known, f"{prefix}{key}.")


def values_of(table: MappingTable, name: str, mode: str) -> st.SearchStrategy[Any]:
    """Values of a parameter that the table takes."""
    field = EngineParameters.model_fields[name]
    entry = table.entries[name]
    words = [*(entry.values or {}), *(entry.cases or {})]
    if "bool" in str(field.annotation):
        found: st.SearchStrategy[Any] = st.booleans()
    elif "tuple" in str(field.annotation):
        found = st.lists(st.integers(1, 512), min_size=1, max_size=4, unique=True).map(
            lambda items: tuple(sorted(items))
        )
    elif "float" in str(field.annotation):
        found = st.floats(0.01, 1)
    elif "int" in str(field.annotation):
        found = st.sampled_from([1, 2, 4, 8, 64, 512]) if name.endswith("_size") else st.integers(1, 65535)
    else:
        found = st.sampled_from(words or ["x"])
    return found.filter(lambda value: not isinstance(entry.target(value, mode), Unsupported))


@st.composite
def requests(draw: st.DrawFn, library: Library, backend: str, version: str) -> Request:
    """Requests that a backend can honour, parameter by parameter."""
    table, mode = library.table(backend, version), draw(st.sampled_from(["agg", "disagg"]))
    usable = [name for name in PARAMETER_NAMES if table.entries[name].supported]
    usable = [name for name in usable if table.entries[name].mode in (None, mode)]
    chosen = draw(st.lists(st.sampled_from(usable), unique=True, max_size=8))
    shared = {
        name: Given(draw(values_of(table, name, mode)), "parameters", f"spec.parameters.{name}") for name in chosen
    }
    return Request(
        backend=backend,
        version=version,
        mode=mode,
        rule_set=draw(st.sampled_from(["production", "benchmark"])),
        roles=tuple(
            RoleRequest(name=role, given=shared) for role in (["agg"] if mode == "agg" else ["prefill", "decode"])
        ),
        model=ModelFacts(path="/models/m", served_name="m", revision=draw(st.sampled_from([None, "main"]))),
        facts={"isl": draw(st.sampled_from([None, 1024]))},
        names={"port": 8000, "config_dir": "/etc/tandem"},
    )


def check(rendering: Rendering, backend: str, version: str) -> None:
    """Command line and settings file of every role, against the version's definitions."""
    known = accepted(backend, version)
    for role in rendering.roles:
        arguments = [str(item) for item in role.command[len(rendering.table.command) :]]
        if not arguments[0].startswith("--"):
            arguments = arguments[1:]  # the model
        check_arguments(arguments, known["flags"])
        for text in role.files.values():
            tree = read(text)
            check_settings(tree, known["settings"])
            assert flat(tree).items() >= {key: _plain(value) for key, value in role.settings.items()}.items()


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Leaves of a tree by dotted names; lists as texts."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        leaves |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: _plain(value)}
    return leaves


def _plain(value: Any) -> Any:
    return str(list(value)) if isinstance(value, list | tuple) else value


@pytest.mark.parametrize(("backend", "version"), VERSIONS)
def test_whatever_is_rendered_exists_in_that_version(library, backend, version):
    @MANY
    @given(st.data())
    def run(data):
        request = data.draw(requests(library, backend, version))
        try:
            rendering = render(request, library)
        except Refused:
            assume(False)
        check(rendering, backend, version)

    run()


@pytest.mark.parametrize(("backend", "version"), VERSIONS)
def test_every_value_that_a_table_names_exists_in_that_version(library, backend, version):
    table = library.table(backend, version)
    for name, entry in table.entries.items():
        for value in (*(entry.values or ()), *(entry.cases or ())):
            role = "agg" if entry.mode is None else "decode"
            given = {name: Given(_typed(value), "user", name)}
            roles = [RoleRequest(name=role, given=given if role == "agg" else {})]
            if role == "decode":
                roles = [RoleRequest(name=each, given=given) for each in ("prefill", "decode")]
            request = Request(
                backend=backend,
                version=version,
                mode="agg" if role == "agg" else "disagg",
                rule_set="production",
                roles=tuple(roles),
                model=ModelFacts(path="/models/m", served_name="m"),
                names={"port": 8000, "config_dir": "/etc/tandem"},
            )
            check(render(request, library), backend, version)


def _typed(value: str) -> bool | int | str:
    return {"true": True, "false": False}.get(value, int(value) if value.isdigit() else value)


@pytest.mark.parametrize(("backend", "version"), VERSIONS)
def test_reserved_and_agreed_names_exist_in_that_version(library, backend, version):
    table, known = library.table(backend, version), accepted(backend, version)
    flags = {
        name.replace("_", "-") for first, entry in known["flags"].items() for name in (first, *entry.get("also", ()))
    }
    names = table.agreement | frozenset().union(*table.reserved.values())

    assert [name for name in names if name.startswith("-") and name not in flags | _OF_OTHER_VERSIONS] == []
    assert [name for name in names if not name.startswith("-") and name not in known["settings"]] == []


# Reserved for every version of TensorRT-LLM, though only the newer ones have them.
_OF_OTHER_VERSIONS = {
    "--served-model-name",
    "--hf-revision",
    "--grpc",
    "--enable-attention-dp",
    "--kv-cache-dtype",
}


@pytest.mark.parametrize(("backend", "version"), VERSIONS)
def test_the_file_names_its_source_and_version(backend, version):
    known = accepted(backend, version)

    assert (known["backend"], known["version"]) == (backend, version)
    assert len(known["source"]) > 20


@pytest.mark.parametrize(
    "arguments", [["--nonsense", "1"], ["--max-num-seqs"], ["--max-num-seqs", "x"], ["--kv-cache-dtype", "int3"]]
)
def test_the_check_itself_finds_what_is_wrong(arguments):
    with pytest.raises((AssertionError, ValueError)):
        check_arguments(arguments, accepted("vllm", "0.33.0")["flags"])
