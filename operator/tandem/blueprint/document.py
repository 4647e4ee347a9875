"""Blueprints as JSON, and JSON texts of other people: bounded in time and memory, every mistake located."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from pydantic import TypeAdapter, ValidationError

from tandem.api.problems import Problem, Refused, refuse, shorten
from tandem.blueprint.counts import counts
from tandem.blueprint.formats import PLAIN_BYTES
from tandem.blueprint.model import SCHEMA_VERSION, Blueprint
from tandem.blueprint.quantisation import Quantisation
from tandem.blueprint.reader import MAX_LAYERS
from tandem.blueprint.structure import Structure

MAX_CHARACTERS = 4 * 1024 * 1024
MAX_INDEX_CHARACTERS = 32 * 1024 * 1024
MAX_DEPTH = 64
# A list of the tensors of the largest models has 200,000; each value takes some hundred bytes while a text is read.
MAX_VALUES = 500_000
_MAX_NUMBER = 2**63
_BESIDE = ("schema_version", "fingerprint", "sizing")  # what `tandem blueprint show -o json` writes beside the facts
_MAY_BE_NOTHING = frozenset(("norms", "final_norms", "positions", "nextn"))
_AGAIN = "Write it again with tandem blueprint show -o json."
_DECLARED = ("max_seq_len", "total_params", "weight_bytes", "kv_bytes_per_token")


def parse_json(text: str, name: str, *, limit: int = MAX_CHARACTERS) -> dict[str, object]:
    """The map that a JSON text is; raises `Refused`, located in the file `name`.

    Infinity and NaN are read, as configurations of real models have them (`time_step_limit`); who reads a number
    refuses them there.
    """
    if len(text) > limit:
        raise refuse(name, f"{len(text)} characters", "the text is too long", f"Give at most {limit} characters.")
    if (values := text.count(",") + 1) > MAX_VALUES:
        raise refuse(name, f"{values} values", "the text holds too many values", f"Give at most {MAX_VALUES}.")
    try:
        value = json.loads(text, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        where = f"{name}:{error.lineno}:{error.colno}"
        raise refuse(where, None, f"malformed JSON: {error.msg}", "Check the file: it may be cut off.") from None
    except ValueError as error:
        raise refuse(name, None, f"malformed JSON: {error}", "Correct the file.") from None
    except RecursionError:
        raise _too_deep(name) from None
    if not isinstance(value, dict):
        raise refuse(name, value, "a map is needed here", "Give a model's config.json.")
    _check_depth(value, name)
    return value


def to_dict(blueprint: Blueprint) -> dict[str, Any]:
    """The blueprint as plain values, with the version of this form."""
    return {"schema_version": SCHEMA_VERSION, **dataclasses.asdict(blueprint)}


def canonical(blueprint: Blueprint) -> str:
    """The one text of a blueprint."""
    return json.dumps(to_dict(blueprint), sort_keys=True, separators=(",", ":"))


def fingerprint(blueprint: Blueprint) -> str:
    """SHA-256 of the canonical text: equal for equal blueprints, in every process."""
    return hashlib.sha256(canonical(blueprint).encode()).hexdigest()


def from_dict(document: Mapping[str, object], *, place: str = "") -> Blueprint:
    """The blueprint of what `to_dict` made, or of numbers that somebody declares; raises `Refused`."""
    version = document.get("schema_version")
    if version != SCHEMA_VERSION:
        fix = f"Write {SCHEMA_VERSION}."
        raise refuse(f"{place}schema_version", version, "this version of the form is not known here", fix)
    values = {key: value for key, value in document.items() if key not in _BESIDE}
    known = {field.name for field in dataclasses.fields(Blueprint)}
    if unknown := sorted(set(values) - known):
        fix = f"Known are {', '.join(sorted(known))}."
        raise Refused(Problem(f"{place}{key}", shorten(values[key]), "unknown field", fix) for key in unknown[:20])
    declared = values.get("structure") is None
    if declared:
        text = json.dumps(document, sort_keys=True, separators=(",", ":"))
        values = {"digest": hashlib.sha256(text.encode()).hexdigest(), "weights_from": "declared", **values}
        values |= {name: values.get(name) for name in _DECLARED}
    try:
        # Through JSON, as lists become tuples only there.
        blueprint = _adapter().validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        raise Refused(_mistakes(error, place)) from None
    problems = list(_implausible(dataclasses.asdict(blueprint), place))
    problems += _inconsistent(blueprint, place)
    if declared and blueprint.weight_bytes is None:
        problems.append(
            Problem(f"{place}weight_bytes", "", "required, but missing", "Declare the bytes of all weights.")
        )
    if problems:
        raise Refused(problems)
    return blueprint


@cache
def _adapter() -> TypeAdapter[Blueprint]:
    adapter = TypeAdapter(Blueprint)
    # Who only names a Blueprint does not import what it is made of; its annotations are resolved here.
    adapter.rebuild(force=True, _types_namespace={"Quantisation": Quantisation, "Structure": Structure})
    return adapter


def _mistakes(error: ValidationError, place: str) -> Iterator[Problem]:
    for mistake in error.errors(include_url=False)[:20]:
        path = ".".join(str(part) for part in mistake["loc"] if not str(part)[:1].isupper())
        value = shorten(mistake["input"]) if mistake["type"] != "missing" else ""
        yield Problem(f"{place}{path}", value, mistake["msg"].lower(), "Correct it.")


def _implausible(value: object, path: str) -> Iterator[Problem]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _implausible(item, f"{path}{'' if path[-2:] in ('', ': ') else '.'}{key}")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _implausible(item, f"{path}[{index}]")
    elif type(value) is int and not 0 <= value < _MAX_NUMBER:
        yield Problem(path, shorten(value), "the number must be from 0 to 2^63 - 1", "Correct it.")


def _inconsistent(blueprint: Blueprint, place: str) -> Iterator[Problem]:
    """What no model can have, and numbers that do not follow from the layers beside them."""
    if blueprint.dtype is not None and blueprint.dtype not in PLAIN_BYTES:
        reason = f"a number format is one of {', '.join(PLAIN_BYTES)}"
        yield Problem(f"{place}dtype", shorten(blueprint.dtype), reason, "Correct it.")
    if blueprint.structure is None:
        return
    path = f"{place}structure"
    empty = list(_empty(dataclasses.asdict(blueprint.structure), path))
    if empty or not 1 <= blueprint.structure.layers <= MAX_LAYERS:
        yield from empty[:20]
        yield Problem(f"{path}.runs", "", f"a model has from 1 to {MAX_LAYERS} layers, of at least one of each", _AGAIN)
        return
    total = counts(blueprint.structure).total
    if total != blueprint.total_params:
        reason = f"the layers in structure have {total} parameters"
        yield Problem(f"{place}total_params", shorten(blueprint.total_params), reason, _AGAIN)


def _empty(value: object, path: str) -> Iterator[Problem]:
    if isinstance(value, dict):
        for key, item in value.items():
            if key not in _MAY_BE_NOTHING:
                yield from _empty(item, f"{path}.{key}")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _empty(item, f"{path}[{index}]")
    elif type(value) is int and value < 1:
        yield Problem(path, str(value), "a number above 0 is needed here", _AGAIN)


def _check_depth(value: object, name: str) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):
        below: list[object] = []
        for item in level:
            if isinstance(item, dict):
                below += item.values()
            elif isinstance(item, list):
                below += item
        if not below:
            return
        level = below
    raise _too_deep(name)


def _too_deep(name: str) -> Refused:
    return refuse(name, None, "nested too deeply", f"Write at most {MAX_DEPTH} levels.")


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        last = {key: place for place, (key, _) in enumerate(pairs)}
        twice = next(key for place, (key, _) in enumerate(pairs) if last[key] != place)
        raise ValueError(f"the key {shorten(twice, 60)} is there twice")
    return found
