"""`response_format`: the grammar that an answer must follow, and what is wrong with a schema."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from tandem_serve.engine.grammar import Grammar, GrammarError, lark_source, schema_source
from tandem_serve.http.errors import invalid, unsupported
from tandem_serve.http.schema import ResponseFormat
from tandem_serve.service import Service

PATIENCE_SECONDS = 10.0
"""A grammar that takes longer to compile is refused."""
INVALID_SCHEMA = "invalid_schema"
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
    return await compiled(service, source_of(schema, param=param), param=param, schema=schema)


def source_of(schema: Mapping[str, Any], *, param: str) -> str:
    """The grammar of a schema that came with a request. Raises a 400 for what is no JSON."""
    try:
        return schema_source(schema)
    except (ValueError, RecursionError) as error:
        raise invalid(f"{param}: this cannot be followed: {error}", param=param, code=INVALID_SCHEMA) from error


async def compiled_lark(service: Service, text: str, *, param: str) -> Grammar:
    """Compiles a grammar in Lark's form that holds schemas of a request. Raises a 400."""
    return await compiled(service, lark_source(text), param=param)


async def compiled(service: Service, source: str, *, param: str, schema: Mapping[str, Any] | None = None) -> Grammar:
    """Compiles away from the event loop, for a limited time. Raises a 400 that names the place in `schema`."""
    grammars = service.ready.grammars
    if not grammars.usable:
        raise unsupported(param, ": the model's tokenizer has no tokenizer.json, which this needs")
    work = asyncio.ensure_future(service.read_long(lambda: grammars.compile(source)))
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await asyncio.shield(work)
    except GrammarError as error:
        reason = str(error)
    except TimeoutError:
        work.add_done_callback(lambda done: done.cancelled() or done.exception())
        reason = f"it takes longer than {PATIENCE_SECONDS:g} s to prepare"
    place = param + _written(_culprit(schema or {}, reason))
    raise invalid(f"{place}: this cannot be followed: {reason}", param=place, code=INVALID_SCHEMA) from None


def _culprit(schema: Mapping[str, Any], reason: str) -> _Pointer:
    """Where in the schema the thing is that the compiler complains of, as far as its words tell; else its root."""
    keys = re.match(r"Unimplemented keys: (\[.*\])", reason)
    wrong_type = re.match(r"Invalid type: (.*)", reason)
    pointer = re.match(r"(?:Pointer|Resource) '([^']*)'", reason)
    if not (keys or wrong_type or pointer):
        return ()
    for path, value in _nodes(schema):
        last = path[-1] if path else None
        if keys and last in json.loads(keys[1]):
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
            waiting += [((*path, key), item) for key, item in reversed(value.items())]
        elif isinstance(value, list):
            waiting += [((*path, index), item) for index, item in reversed(list(enumerate(value)))]


def _written(path: _Pointer) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
