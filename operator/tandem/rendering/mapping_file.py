"""From the parsed YAML of a mapping file to a `MappingTable`, every mistake located; `mapping.py` tells the form."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from tandem.api.deployment import Limits, Mode, RoleName
from tandem.api.mistakes import words_of
from tandem.api.parameters import EngineParameters
from tandem.api.problems import Problem, Refused, refuse, shorten
from tandem.rendering.constraints import CONSTRAINTS
from tandem.rendering.mapping import PARAMETER_NAMES, Entry, MappingTable, Unsupported
from tandem.rendering.values import Value, as_text

_REQUIRED = ("backend", "version", "image", "command", "parameters", "limits")
_KEYS = (
    *_REQUIRED,
    *("lineage", "preferred", "defaults", "role_defaults", "limits_refused", "reserved", "passed", "must_match"),
    *("agreement", "constraints", "served_name"),
)
_FORMS = ("flag", "env", "setting", "when", "unsupported")
_ENTRY_KEYS = (*_FORMS, "in_disagg", "values", "list", "mode", "notes", "otherwise", "fix")
_MODES: tuple[str, ...] = get_args(Mode)
_ROLES: tuple[str, ...] = get_args(RoleName)
_LIMITS = tuple(Limits.model_fields)
_TIMEOUT = "timeout_seconds"
_NAMES: Mapping[str, tuple[re.Pattern[str], str]] = {
    "flag": (re.compile(r"--?[A-Za-z][\w.-]*"), "a flag begins with - and has no spaces"),
    "env": (re.compile(r"[A-Za-z_]\w*"), "a variable has letters, digits and _ only"),
    "setting": (re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*"), "a setting is names with dots between them"),
}


def extend(version: str, documents: Mapping[str, object], location: str) -> dict[str, Any]:
    """The parsed YAML of `version` over what it extends, with its `lineage`; raises `Refused`."""
    merged: dict[str, Any] = {}
    lineage: list[str] = []
    following: object = version
    while following is not None:
        document = documents.get(following) if isinstance(following, str) else None
        if not isinstance(document, dict) or following in lineage:
            if not lineage:
                raise refuse(location, document, "a mapping file is a map", "Begin with backend:.")
            known = ", ".join(sorted(set(documents) - set(lineage)))
            fix = f"Use one of: {known or 'none'}."
            raise refuse(f"{location}: extends", following, "this version cannot be extended", fix)
        lineage.append(str(following))
        own, above = document.get("parameters", {}), merged.get("parameters", {})
        if not isinstance(own, dict) or not isinstance(above, dict):
            raise refuse(f"{location}: parameters", own, "must be a map", "Write keys and values below it.")
        merged = {**document, **merged, "parameters": {**own, **above}}
        merged.pop("extends", None)
        following = document.get("extends")
    return {**merged, "lineage": lineage}


def parse_mapping(document: Mapping[str, Any], location: str) -> MappingTable:
    """A table from its parsed YAML with `lineage`; raises `Refused` with every mistake, named `location: path`."""
    reader = _Reader(location)
    reader.known("", document, _KEYS, required=_REQUIRED)
    reader.check()
    refused = reader.map("limits_refused", document.get("limits_refused"))
    reserved = reader.map("reserved", document.get("reserved"))
    reader.known("reserved", reserved, ("always", *_MODES))
    always = reader.texts("reserved.always", reserved.get("always", ()))
    parameters = reader.map("parameters", document["parameters"])
    reader.known("parameters", parameters, PARAMETER_NAMES, required=PARAMETER_NAMES)
    limits = reader.map("limits", document["limits"])
    reader.limits(limits, refused)
    table = MappingTable(
        backend=reader.text("backend", document["backend"]),
        version=reader.text("version", document["version"]),
        lineage=tuple(document["lineage"]),
        image=reader.text("image", document["image"]),
        command=reader.texts("command", document["command"], least=1),
        entries={name: reader.entry(f"parameters.{name}", parameters.get(name)) for name in PARAMETER_NAMES},
        defaults=reader.values("defaults", document.get("defaults")),
        role_defaults=reader.role_defaults(document.get("role_defaults")),
        limits=limits,
        limits_refused=reader.refusals("limits_refused", refused),
        reserved={
            mode: frozenset((*always, *reader.texts(f"reserved.{mode}", reserved.get(mode, ())))) for mode in _MODES
        },
        passed=frozenset(reader.texts("passed", document.get("passed", ()))),
        must_match=reader.words("must_match", document.get("must_match", ()), PARAMETER_NAMES),
        agreement=frozenset(reader.texts("agreement", document.get("agreement", ()))),
        constraints=reader.words("constraints", document.get("constraints", ()), tuple(sorted(CONSTRAINTS))),
        served_name=reader.refusals("served_name", reader.map("served_name", document.get("served_name"))),
        preferred=reader.flag("preferred", document.get("preferred", False)),
    )
    reader.check()
    return table


class _Reader:
    """Reads values of a kind and keeps what is wrong; what it returns for a wrong one is never used."""

    def __init__(self, location: str) -> None:
        self._location = location
        self._problems: list[Problem] = []

    def check(self) -> None:
        """Raises `Refused` when anything was wrong."""
        if self._problems:
            raise Refused(self._problems)

    def wrong(self, path: str, value: object, reason: str, fix: str) -> None:
        where = f"{self._location}: {path}" if path else self._location
        self._problems.append(Problem(where, shorten(value), reason, fix))

    def known(self, path: str, given: Mapping[str, Any], known: Iterable[str], *, required: Iterable[str] = ()) -> None:
        """Tells keys that do not exist and those that are missing."""
        names = tuple(known)
        for key in given:
            if key not in names:
                self.wrong(_below(path, key), None, "there is no such key", f"Known: {', '.join(names)}.")
        for key in required:
            if key not in given:
                self.wrong(_below(path, key), None, "required, but missing", "Add it.")

    def map(self, path: str, value: object) -> dict[str, Any]:
        if value is None:
            return {}
        if isinstance(value, Mapping):
            if all(isinstance(key, str | bool | int | float) for key in value):
                return {as_text(key): item for key, item in value.items()}
            self.wrong(path, None, "a key must be a text", "Put quotes around it.")
            return {}
        self.wrong(path, value, "must be a map", "Write keys and values below it.")
        return {}

    def text(self, path: str, value: object) -> str:
        if isinstance(value, str) and value:
            return value
        self.wrong(path, value, "must be a text", "Put quotes around it.")
        return ""

    def texts(self, path: str, value: object, *, least: int = 0) -> tuple[str, ...]:
        if not isinstance(value, list | tuple) or len(value) < least:
            self.wrong(path, value, "must be a list of texts", "Write [a, b].")
            return ()
        return tuple(self.text(f"{path}[{index}]", item) for index, item in enumerate(value))

    def words(self, path: str, value: object, known: tuple[str, ...]) -> tuple[str, ...]:
        found = self.texts(path, value)
        for index, word in enumerate(found):
            if word and word not in known:
                self.wrong(f"{path}[{index}]", word, "there is nothing of this name", f"Known: {', '.join(known)}.")
        return found

    def flag(self, path: str, value: object) -> bool:
        if not isinstance(value, bool):
            self.wrong(path, value, "must be true or false", "Write true or false.")
        return value is True

    def values(self, path: str, value: object) -> dict[str, Value]:
        """Values of parameters, as a deployment could have them."""
        found = self.map(path, value)
        self.known(path, found, PARAMETER_NAMES)
        return {
            name: tuple(item) if isinstance(item, list) else item
            for name, item in found.items()
            if name in PARAMETER_NAMES and self._fits(EngineParameters, path, name, item)
        }

    def role_defaults(self, value: object) -> dict[str, dict[str, Value]]:
        found = self.map("role_defaults", value)
        self.known("role_defaults", found, _ROLES)
        return {role: self.values(f"role_defaults.{role}", item) for role, item in found.items()}

    def limits(self, limits: Mapping[str, Any], refused: Mapping[str, Any]) -> None:
        """Each limit is either enforced, with a default, or refused; a request always ends after some time."""
        for path, names in (("limits", limits), ("limits_refused", refused)):
            self.known(path, names, _LIMITS)
        for name in _LIMITS:
            if (name in limits) is (name in refused):
                reason = "both has a default and is refused" if name in limits else "has no default and is not refused"
                self.wrong(f"limits.{name}", None, reason, "Say it in limits or in limits_refused.")
        for name, item in limits.items():
            if name in _LIMITS and item is not None:
                self._fits(Limits, "limits", name, item)
        if limits.get(_TIMEOUT) is None:
            self.wrong(f"limits.{_TIMEOUT}", None, "a number of seconds is needed here", "Write one, like 600.")

    def refusals(self, path: str, found: Mapping[str, Any]) -> dict[str, Unsupported]:
        return {name: self._refusal(_below(path, name), raw) for name, raw in found.items()}

    def entry(self, path: str, raw: object) -> Entry:
        raw = {"flag": raw} if isinstance(raw, str) else self.map(path, raw)
        self.known(path, raw, _ENTRY_KEYS)
        forms = [form for form in _FORMS if form in raw]
        if len(forms) != 1:
            fix = f"Give exactly one of {', '.join(_FORMS)}."
            self.wrong(path, ", ".join(forms) or None, "this does not say what it becomes", fix)
        names = {
            form: self._name(f"{path}.{form}", raw[form], form) for form in ("flag", "env", "setting") if form in raw
        }
        cases = self._each(f"{path}.when", raw.get("when"), self._case)
        if raw.get("list", "spread") != "spread":
            self.wrong(f"{path}.list", raw["list"], "only spread is known", "Write spread or leave it out.")
        if "mode" in raw and raw["mode"] not in _MODES:
            self.wrong(f"{path}.mode", raw["mode"], "this mode does not exist", f"Use {' or '.join(_MODES)}.")
        reasons = (self.text(f"{path}.{key}", raw[key]) for key in ("unsupported", "otherwise") if key in raw)
        reason = next(reasons, "this value cannot be had on this backend")
        return Entry(
            **names,
            in_disagg=self._name(f"{path}.in_disagg", raw["in_disagg"], "setting") if "in_disagg" in raw else None,
            values=self._each(f"{path}.values", raw["values"], self._plain) if "values" in raw else None,
            cases={key: arguments for key, (arguments, _) in cases.items()} if "when" in raw else None,
            case_settings={key: made for key, (_, made) in cases.items() if made is not None},
            spread="list" in raw,
            notes=self._each(f"{path}.notes", raw.get("notes"), self.text),
            mode=raw.get("mode"),
            otherwise=Unsupported(reason, self.text(f"{path}.fix", raw.get("fix", "Remove it."))),
        )

    def _fits(self, model: type[BaseModel], path: str, name: str, value: object) -> bool:
        try:
            given = tuple(value) if isinstance(value, list) else value
            model.model_validate({name: given}, by_name=True, by_alias=False)
        except ValidationError as error:
            reason, fix = words_of(error.errors()[0])
            self.wrong(_below(path, name), value, reason, fix)
            return False
        return True

    def _each(self, path: str, value: object, read: Callable[[str, Any], Any]) -> dict[str, Any]:
        return {key: read(_below(path, key), item) for key, item in self.map(path, value).items()}

    def _plain(self, path: str, value: object) -> str:
        if isinstance(value, str | bool | int | float):
            return as_text(value)
        self.wrong(path, value, "must be a text or a number", "Put quotes around it.")
        return ""

    def _name(self, path: str, value: object, kind: str) -> str:
        found = self.text(path, value)
        pattern, reason = _NAMES[kind]
        if found and not pattern.fullmatch(found):
            self.wrong(path, found, reason, "Correct it.")
        return found

    def _case(self, path: str, value: object) -> tuple[tuple[str, ...], dict[str, Value | None] | None]:
        """The arguments and the settings that a value becomes."""
        if not isinstance(value, Mapping):
            return self.texts(path, value), None
        for name, item in value.items():
            self._name(path, name, "setting")
            if item is not None and not isinstance(item, str | bool | int | float):
                self.wrong(_below(path, str(name)), item, "must be a text, a number or null", "Write one value.")
        return (), dict(value)

    def _refusal(self, path: str, raw: object) -> Unsupported:
        found = self.map(path, raw)
        self.known(path, found, ("reason", "fix"), required=("reason", "fix"))
        return Unsupported(*(self.text(f"{path}.{key}", found.get(key, "-")) for key in ("reason", "fix")))


def _below(path: str, key: str) -> str:
    shown = key if re.fullmatch(r"\w+", key) else shorten(key, 60)
    return f"{path}.{shown}" if path else shown
