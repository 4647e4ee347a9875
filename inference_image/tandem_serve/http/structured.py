"""`response_format`: the grammar that an answer must follow, and what is wrong with a schema."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from tandem_serve.engine.grammar import Grammar, GrammarError, schema_source
from tandem_serve.http.errors import invalid, unsupported
from tandem_serve.http.schema import ResponseFormat
from tandem_serve.service import Service

INVALID_SCHEMA = "invalid_schema"
MAX_PATTERN_CHARS = 20_000
"""All patterns of a schema together: longer ones take gigabytes when the first token is chosen."""
_ANY_OBJECT = {"type": "object"}
_Pointer = tuple[str | int, ...]


async def of_response_format(service: Service, wanted: ResponseFormat | None) -> Grammar | None:
    """The grammar that a request asks for, if any. Raises a 400 for a schema that cannot be followed."""
    if wanted is None or wanted.type == "text":
        return None
    if wanted.type == "json_object":
        return await compiled(service, schema_source(_ANY_OBJECT), param="response_format")
    if wanted.json_schema is None:
        raise invalid("response_format.json_schema: it is missing", param="response_format.json_schema")
    param, schema = "response_format.json_schema.schema", wanted.json_schema.content
    return await compiled(service, source_of(schema, param=param), param=param, schemas={param: schema})


def source_of(schema: Mapping[str, Any], *, param: str) -> str:
    """The grammar of a schema that came with a request. Raises a 400."""
    check_patterns(schema, param=param)
    try:
        return schema_source(schema)
    except (ValueError, RecursionError) as error:
        raise invalid(f"{param}: this cannot be followed: {error}", param=param, code=INVALID_SCHEMA) from error


def check_patterns(schema: Mapping[str, Any], *, param: str) -> None:
    """Raises a 400 at the pattern with which all of them become too long."""
    size = 0
    for path, value in _nodes(schema):
        if path[-1:] == ("pattern",) and isinstance(value, str):
            size += len(value)
        elif path[-2:-1] == ("patternProperties",):
            size += len(str(path[-1]))
        if size > MAX_PATTERN_CHARS:
            place = param + _written(path)
            message = f"{place}: all patterns together have more than {MAX_PATTERN_CHARS} characters"
            raise invalid(message, param=place, code=INVALID_SCHEMA)


async def compiled(service: Service, source: str, *, param: str, schemas: Mapping[str, Any] | None = None) -> Grammar:
    """Compiles away from the event loop. Raises a 400 that names the place in `schemas`, which are by their place."""
    grammars = service.ready.grammars
    if not grammars.usable:
        raise unsupported(param, ": the model's tokenizer has no tokenizer.json, which this needs")
    try:
        return await grammars.prepare(source)
    except GrammarError as error:
        place = _place(schemas or {}, str(error)) or param
        raise invalid(f"{place}: this cannot be followed: {error}", param=place, code=INVALID_SCHEMA) from None


def _place(schemas: Mapping[str, Any], reason: str) -> str | None:
    """Where the thing is that the compiler complains of, as far as its words tell."""
    for place, schema in schemas.items():
        if path := _culprit(schema, reason):
            return place + _written(path)
    return None


def _culprit(schema: Mapping[str, Any], reason: str) -> _Pointer:
    keys = re.search(r"Unimplemented keys: (\[.*?\])", reason)
    wrong_type = re.search(r"Invalid type: (\S*)", reason)
    pointer = re.search(r"(?:Pointer|Resource) '([^']*)'", reason)
    if not (keys or wrong_type or pointer):
        return ()
    for path, value in _nodes(schema):
        last = path[-1] if path else None
        if keys and f'"{last}"' in keys[1] and path[-2:-1] != ("properties",):
            return path
        if wrong_type and last == "type" and value == wrong_type[1]:
            return path
        if pointer and last == "$ref" and str(value).removeprefix("#") == pointer[1]:
            return path
    return ()


def _nodes(schema: Any) -> Iterator[tuple[_Pointer, Any]]:
    """Every value inside, with its path; without recursion, which a deep schema would exhaust."""
    waiting: list[tuple[_Pointer, Any]] = [((), schema)]
    while waiting:
        path, value = waiting.pop()
        yield path, value
        if isinstance(value, Mapping):
            waiting += [((*path, key), item) for key, item in reversed(list(value.items()))]
        elif isinstance(value, list):
            waiting += [((*path, index), item) for index, item in reversed(list(enumerate(value)))]


def _written(path: _Pointer) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
