"""From files to resources: YAML or JSON documents, every mistake located."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError

from tandem.api import patterns
from tandem.api.base import API_VERSION, OTHER_METADATA, WITHOUT_RULES, ObjectMeta, broken_rules
from tandem.api.deployment import ModelDeployment
from tandem.api.mistakes import Below, Places, near, problem_of_rule, problems_of
from tandem.api.problems import Problem, Refused, refuse, shorten
from tandem.api.yaml_in import MAX_CHARACTERS, Document, read_documents

if TYPE_CHECKING:
    from tandem.api.resources import ModelBlueprint, ModelJob, ModelRoute

    Resource = ModelDeployment | ModelBlueprint | ModelJob | ModelRoute

M = TypeVar("M", bound=BaseModel)
KINDS = ("ModelDeployment", "ModelBlueprint", "ModelJob", "ModelRoute")
STANDARD_INPUT = Path("/dev/stdin")
MAX_PROBLEMS = 100
_NO_HINTS: Mapping[str, str] = {}
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


@dataclass(frozen=True, slots=True)
class Loaded:
    """A resource, with the document that it was read from."""

    resource: Resource
    document: Document

    def located(self, problem: Problem) -> Problem:
        """The problem with file, line and column before its path, where that is a path of this resource."""
        location = self.document.find(problem.path)
        if location is None:
            return problem
        place = self.document.position(location)
        return replace(problem, path=f"{place}: {problem.path}")

    @contextmanager
    def locating(self) -> Iterator[None]:
        """Locates the problems of what is refused inside."""
        try:
            yield
        except Refused as refused:
            raise Refused(in_order(map(self.located, refused.problems))) from None


def load(path: Path, *, hints: Mapping[str, str] = _NO_HINTS) -> tuple[Loaded, ...]:
    """All resources of a YAML or JSON file, in order; raises `Refused` with file, line and column in each path.

    `hints` say, by `simplified` name, what to write instead of a field that does not exist.
    """
    name = source_name(path)
    loaded: list[Loaded] = []
    problems: list[Problem] = []
    for document in read_documents(_text(path, name), name):
        problems += islice(_metadata_problems(document), MAX_PROBLEMS)
        try:
            loaded.append(Loaded(parse_resource(document.value, document, hints=hints), document))
        except Refused as refused:
            problems += refused.problems
        if len(problems) > MAX_PROBLEMS:
            break
    problems += _repeated(loaded)
    if problems:
        raise Refused(in_order(problems))
    if not loaded:
        raise refuse(name, None, "the file holds no resource", f"Write a document with apiVersion: {API_VERSION}.")
    return tuple(loaded)


def in_order(problems: Iterable[Problem]) -> list[Problem]:
    """As they stand in the file; what has no place there comes last."""

    def key(problem: Problem) -> tuple[bool, int, int]:
        place = problem.place
        return place.line is None, place.line or 0, place.column or 0

    return sorted(problems, key=key)


def load_one(path: Path, *, hints: Mapping[str, str] = _NO_HINTS) -> tuple[ModelDeployment, Loaded]:
    """The one ModelDeployment of a file, and where it stands."""
    found = [(each.resource, each) for each in load(path, hints=hints) if isinstance(each.resource, ModelDeployment)]
    if len(found) != 1:
        reason = f"{len(found)} ModelDeployments are in it, and one is needed"
        raise refuse(source_name(path), None, reason, "Give a file with exactly one.")
    return found[0]


def load_deployment(path: Path) -> ModelDeployment:
    """The one ModelDeployment of a file."""
    return load_one(path)[0]


def source_name(path: Path) -> str:
    """What messages call a file."""
    return "standard input" if path == STANDARD_INPUT else str(path)


def parse_resource(document: object, places: Places | None = None, *, hints: Mapping[str, str] = _NO_HINTS) -> Resource:
    """A resource from its parsed document; raises `Refused`."""
    places = places or Below()
    if not isinstance(document, dict):
        raise refuse(places.path(()), document, "a resource is a map", "Write apiVersion, kind, metadata and spec.")
    kind = document.get("kind")
    if kind not in KINDS:
        raise refuse(places.path(("kind",)), kind, "this kind is not one of Tandem's", _kind_fix(kind))
    version = document.get("apiVersion")
    if version != API_VERSION:
        reason = "unknown API version" if version else "required, but missing"
        raise refuse(places.path(("apiVersion",)), version, reason, f"Write {API_VERSION}.")
    return _validated(_model(str(kind)), document, places, hints)


def _model(kind: str) -> type[Resource]:
    """The model of one of `KINDS`. Most commands are about deployments alone, and do not wait for the other models."""
    if kind == ModelDeployment.__name__:
        return ModelDeployment
    from tandem.api import resources

    found: type[Resource] = getattr(resources, kind)
    return found


def validate_model(model: type[M], document: Mapping[str, Any], prefix: str = "") -> M:
    """`document` as an instance of `model`, or `Refused` with one problem per mistake, each path behind `prefix`."""
    return _validated(model, document, Below(prefix), _NO_HINTS)


def _validated(model: type[M], document: Mapping[str, Any], places: Places, hints: Mapping[str, str]) -> M:
    try:
        text = json.dumps(document, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise refuse(places.path(()), None, f"a value has no JSON form: {error}", "Write plain values.") from None
    try:
        return model.model_validate_json(text, by_alias=True, by_name=False)
    except ValidationError as error:
        found = _broken_rules(model, text, places) or problems_of(error, model, places, hints)
        told = list(islice(found, MAX_PROBLEMS))
        if len(told) == MAX_PROBLEMS:
            told.append(Problem(places.path(()), "", "there may be more mistakes", "Correct these first."))
        raise Refused(told) from None


def _broken_rules(model: type[BaseModel], text: str, places: Places) -> list[Problem]:
    """All of them, where nothing else is wrong; else none."""
    try:
        value = model.model_validate_json(text, by_alias=True, by_name=False, context=WITHOUT_RULES)
    except ValidationError:
        return []
    return [problem_of_rule(broken, location, places) for location, broken in broken_rules(value)]


def _text(path: Path, name: str) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_CHARACTERS + 1)
    except FileNotFoundError:
        raise refuse(name, None, "the file does not exist", "Check the path.") from None
    except IsADirectoryError:
        raise refuse(name, None, "this is a directory", "Name a YAML file inside it.") from None
    except OSError as error:
        reason = f"the file cannot be read: {error.strerror}"
        raise refuse(name, None, reason, "Give a file that you may read.") from None
    if len(data) > MAX_CHARACTERS:
        fix = f"Give files of at most {MAX_CHARACTERS // 2**20} MiB."
        raise refuse(name, None, "the file is too large", fix)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        fix = "Save it as UTF-8." if data.startswith(_UTF16) else "Give a YAML file in UTF-8."
        reason = "this is UTF-16" if data.startswith(_UTF16) else "this is no text in UTF-8"
        raise refuse(f"{name}:{line}", None, reason, fix) from None


def _repeated(loaded: Iterable[Loaded]) -> Iterator[Problem]:
    """Resources that stand in the file twice: of these the last would win in silence."""
    first: dict[tuple[str, str | None, str], str] = {}
    for each in loaded:
        metadata = each.resource.metadata
        place = each.document.position(("metadata", "name"))
        key = (each.resource.kind, metadata.namespace, metadata.name)
        if key in first:
            reason = f"this {each.resource.kind} is defined twice, first at {first[key]}"
            yield Problem(f"{place}: metadata.name", metadata.name, reason, "Keep one, or give it another name.")
        else:
            first[key] = place


def _kind_fix(kind: object) -> str:
    if isinstance(kind, str):
        found = near(kind, KINDS)
        if found:
            return f"Did you mean {found}?"
        if kind.endswith("List") or kind == "List":
            return "Write its items as documents of their own, with --- between them."
    return f"Use one of {', '.join(KINDS)}."


def _metadata_problems(document: Document) -> Iterator[Problem]:
    """What the API server would not take, and the models leave to it."""
    metadata = document.value.get("metadata") if isinstance(document.value, dict) else None
    if not isinstance(metadata, dict):
        return
    own = [field.alias or name for name, field in ObjectMeta.model_fields.items()]
    known = sorted({*own, *OTHER_METADATA})
    for key in metadata:
        if key not in known:
            found = near(key, known)
            fix = f"Did you mean {found}?" if found else "Put it into labels or annotations, or remove it."
            where = document.path(("metadata", key), key=True)
            yield Problem(where, shorten(metadata[key]), "unknown field", fix)
    if metadata.get("name") in (None, ""):
        yield Problem(document.path(("metadata", "name")), "", "a resource needs a name", "Add name.")
    for field, pattern, longest in (("name", patterns.DNS_NAME, 253), ("namespace", patterns.DNS_LABEL, 63)):
        text = metadata.get(field)
        if (
            isinstance(text, str)
            and (text or field == "namespace")
            and not (re.search(pattern.regex, text) and len(text) <= longest)
        ):
            yield Problem(document.path(("metadata", field)), shorten(text), *pattern.advice(text))
