"""From text to resources: YAML or JSON documents, every mistake located."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml
from pydantic import BaseModel, ValidationError

from tandem.api.base import API_VERSION
from tandem.api.deployment import ModelDeployment
from tandem.api.problems import Problem, Refused, refuse, shorten
from tandem.api.resources import ModelBlueprint, ModelJob, ModelRoute

M = TypeVar("M", bound=BaseModel)
Resource = ModelDeployment | ModelBlueprint | ModelJob | ModelRoute
KINDS: Mapping[str, type[ModelDeployment | ModelBlueprint | ModelJob | ModelRoute]] = {
    "ModelDeployment": ModelDeployment,
    "ModelBlueprint": ModelBlueprint,
    "ModelJob": ModelJob,
    "ModelRoute": ModelRoute,
}


def load_file(path: Path) -> tuple[Resource, ...]:
    """All resources of a YAML or JSON file, in order; raises `Refused` with file name and line in each path."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise refuse(str(path), None, "the file does not exist", "Check the path.") from None
    except IsADirectoryError:
        raise refuse(str(path), None, "this is a directory", "Name a YAML file inside it.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise refuse(str(path), None, f"the file cannot be read: {error}", "Give a readable UTF-8 file.") from error
    resources = tuple(parse_resource(document, where) for document, where in _documents(text, str(path)))
    if not resources:
        raise refuse(str(path), None, "the file holds no resource", f"Write a document with apiVersion: {API_VERSION}.")
    return resources


def load_deployment(path: Path) -> ModelDeployment:
    """The one ModelDeployment of a file."""
    found = [resource for resource in load_file(path) if isinstance(resource, ModelDeployment)]
    if len(found) != 1:
        raise refuse(str(path), None, f"the file holds {len(found)} ModelDeployments", "Give a file with exactly one.")
    return found[0]


def parse_resource(document: object, where: str = "") -> Resource:
    """A resource from its parsed document; raises `Refused`. `where` is put before each path."""
    prefix = f"{where}: " if where else ""
    if not isinstance(document, dict):
        raise refuse(f"{prefix}.", document, "a resource is a mapping", "Write apiVersion, kind, metadata and spec.")
    kind = document.get("kind")
    model = KINDS.get(kind) if isinstance(kind, str) else None
    if model is None:
        raise refuse(f"{prefix}kind", kind, "this kind is not one of Tandem's", f"Use one of {', '.join(KINDS)}.")
    if document.get("apiVersion") != API_VERSION:
        raise refuse(f"{prefix}apiVersion", document.get("apiVersion"), "unknown API version", f"Write {API_VERSION}.")
    return validate_model(model, document, prefix)


def validate_model(model: type[M], document: Mapping[str, Any], prefix: str = "") -> M:
    """`document` as an instance of `model`, or `Refused` with one problem per mistake."""
    try:
        text = json.dumps(document, allow_nan=False)
    except (TypeError, ValueError) as error:
        fix = "Quote dates and other special YAML values; NaN and infinity are not numbers here."
        raise refuse(f"{prefix}.", None, f"a value has no JSON form: {error}", fix) from None
    try:
        return model.model_validate_json(text, by_alias=True, by_name=False)
    except ValidationError as error:
        raise Refused(_problem(detail, model, prefix) for detail in error.errors(include_url=False)) from None


def _documents(text: str, name: str) -> Iterator[tuple[object, str]]:
    loader = yaml.CSafeLoader(text)
    try:
        while True:
            try:
                if not loader.check_node():
                    return
                node = cast("yaml.Node", loader.get_node())
                line = node.start_mark.line + 1
                document = loader.construct_document(node)
            except yaml.MarkedYAMLError as error:
                mark = error.problem_mark
                where = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
                reason = f"malformed YAML: {error.problem or error.context}"
                raise refuse(where, None, reason, "Check indentation, quotes and brackets there.") from None
            except yaml.YAMLError as error:
                raise refuse(name, None, f"malformed YAML: {error}", "Check the file's characters.") from None
            if document is not None:
                yield document, f"{name}:{line}"
    finally:
        loader.dispose()


def _problem(detail: Any, model: type[BaseModel], prefix: str) -> Problem:
    location = tuple(part for part in detail["loc"] if isinstance(part, int) or not part.endswith("]"))
    path = prefix + _dotted(location)
    kind = detail["type"]
    if kind == "extra_forbidden":
        known = _known_fields(model, location[:-1])
        near = difflib.get_close_matches(str(location[-1]), known, n=1)
        fix = f"Did you mean {near[0]}?" if near else f"Known here: {', '.join(known)}."
        return Problem(path, shorten(detail["input"]), "unknown field", fix)
    if kind == "missing":
        return Problem(path, "", "required, but missing", "Add it.")
    if kind == "rule":
        return Problem(path or ".", "", detail["msg"], "")
    return Problem(path, shorten(detail["input"]), detail["msg"], "")


def _dotted(location: tuple[int | str, ...]) -> str:
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path


def _known_fields(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """The names allowed at `location`, found by walking the models along the way."""
    current: type[BaseModel] | None = model
    for part in location:
        if current is None or isinstance(part, int):
            continue
        current = next(
            (
                _model_in(field.annotation)
                for name, field in current.model_fields.items()
                if part in (name, field.alias)
            ),
            None,
        )
    return sorted(field.alias or name for name, field in current.model_fields.items()) if current else []


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = (_model_in(argument) for argument in getattr(annotation, "__args__", ()))
    return next((model for model in found if model is not None), None)
