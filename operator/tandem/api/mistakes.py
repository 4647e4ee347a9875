"""From pydantic's errors to problems in our words: where, what, why, and what to do."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Protocol

from pydantic import BaseModel, ValidationError

from tandem.api import patterns
from tandem.api.base import ApiModel, Broken, Location
from tandem.api.podplaces import place_of
from tandem.api.problems import Problem, Scalar, raw_of, shorten
from tandem.api.quantity import meant
from tandem.api.yaml_in import dotted

MAX_KNOWN = 16
_NO_HINTS: Mapping[str, str] = {}
_SECRETS = ("token", "password", "secret", "apikey", "credential")
_FOR_SECRETS = (*_SECRETS, "secretref")  # where a Secret's name is due, somebody may write what is in it
_QUANTITY_FIX = "Write a number with a unit, like 2, 500m or 4Gi."
_PATTERNS = {pattern.regex: pattern for pattern in patterns.ALL}
_UNITS = {
    **dict.fromkeys(("ms", "msec", "millis"), Decimal("0.001")),
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), Decimal(1)),
    **dict.fromkeys(("m", "min", "mins", "minute", "minutes"), Decimal(60)),
    **dict.fromkeys(("h", "hour", "hours"), Decimal(3600)),
}
_BOUNDS = {
    "greater_than": ("gt", "above {}", "Write a number above {}."),
    "greater_than_equal": ("ge", "at least {}", "Write {} or more."),
    "less_than": ("lt", "below {}", "Write a number below {}."),
    "less_than_equal": ("le", "at most {}", "Write {} or less."),
}
_LENGTHS = {
    "string_too_short": ("min_length", "at least {} needed here", "character"),
    "string_too_long": ("max_length", "at most {} allowed here", "character"),
    "too_short": ("min_length", "at least {} needed here", "item"),
    "too_long": ("max_length", "at most {} allowed here", "item"),
}


class Places(Protocol):
    """Where the parts of a document stand, for messages."""

    def path(self, location: Location, *, key: bool = False) -> str:
        """The place of the value at `location`, or with `key` of its key, as text."""

    def written(self, location: Location) -> str | None:
        """The scalar at `location` as its author wrote it, where that is known."""


@dataclass(frozen=True, slots=True)
class Below:
    """Places of a document that has no file: paths behind a prefix."""

    prefix: str = ""

    def path(self, location: Location, *, key: bool = False) -> str:  # noqa: ARG002 - see Places
        """See `Places`."""
        return self.prefix + dotted(location)

    def written(self, location: Location) -> None:
        """See `Places`."""


def simplified(name: str) -> str:
    """`name` without case, dashes and underscores: what `max-num-seqs`, `max_num_seqs` and `maxNumSeqs` share."""
    return re.sub(r"[-_]", "", name).lower()


def problems_of(
    error: ValidationError, model: type[BaseModel], places: Places, hints: Mapping[str, str] = _NO_HINTS
) -> Iterator[Problem]:
    """One problem per mistake, in the order of the document's fields.

    `hints` say, by `simplified` name, what to write instead of a field that does not exist.
    """
    details: Sequence[Any] = error.errors(include_url=False)
    locations = {detail["loc"] for detail in details}
    told: set[Location] = set()
    for detail in details:
        location: Location = tuple(detail["loc"])
        if location and {(*location[:-1], "int"), (*location[:-1], "str")} <= locations:
            location = location[:-1]  # each branch of a union tells why it did not fit
            if location not in told:
                told.add(location)
                yield _number_or_text(location, detail["input"], places)
        elif detail["type"] == "rule":
            yield from (problem_of_rule(broken, location, places) for broken in detail["ctx"]["broken"])
        elif detail["type"] == "extra_forbidden":
            yield _unknown(location, detail["input"], places, model, hints)
        elif detail["type"] == "missing":
            yield Problem(places.path(location), "", "required, but missing", _addition(model, location))
        else:
            yield _wrong(detail, location, places, model)


def near(name: str, known: Sequence[str], *, cutoff: float = 0.7) -> str | None:
    """The one of `known` that `name` most likely stands for."""
    by_form = {simplified(each): each for each in known}
    # Two letters that changed places count as two mistakes there, as many as in a word that is none of the same.
    turned = [form for form in by_form if sorted(form) == sorted(simplified(name))]
    found = turned or difflib.get_close_matches(simplified(name), by_form, n=1, cutoff=cutoff)
    return by_form[found[0]] if found else None


def problem_of_rule(broken: Broken, location: Location, places: Places) -> Problem:
    """The problem that a broken rule of the model at `location` is."""
    below: Location = tuple(filter(None, (*broken.rule.field.split("."), broken.rule.key)))
    path = places.path((*location, *below), key=True)
    return Problem(path, ", ".join(broken.given), broken.rule.reason, broken.rule.fix)


def _unknown(
    location: Location, value: object, places: Places, model: type[BaseModel], hints: Mapping[str, str]
) -> Problem:
    name, parent = str(location[-1]), location[:-1]
    return Problem(
        places.path(location, key=True),
        _shown(location, value, places),
        "unknown field",
        _right_name(name, value, parent, model, hints.get(simplified(name))),
        _raw(location, value),
    )


def _right_name(name: str, value: object, parent: Location, model: type[BaseModel], hint: str | None) -> str:
    """What to write instead of the field `name`, which its place has not."""
    here = _model_at(model, parent)
    known = _fields(here)
    found = near(name, known)
    if simplified(name) in map(simplified, known):
        return f"Did you mean {found}?"
    if (instead := _instead(here, name, value)) is not None:
        return instead
    if hint is not None and parent and parent[-1] == "parameters":
        return f"Write {hint}."
    if elsewhere := list(_places_of(name, model, ())):
        return f"It belongs below {' or '.join(elsewhere[:3])}."
    if parent[:1] == ("spec",) and (template := _template_of(parent)) and (place := place_of(name)) is not None:
        which = ", of the container named server" if place.startswith("spec.containers[]") else ""
        return f"Put it below {template}.{place}{which}."
    if found is not None:
        return f"Did you mean {found}?"
    if hint is not None:
        return f"Write {hint} below parameters."
    if len(known) > MAX_KNOWN:
        return f"kubectl explain {model.__name__.lower()}.{dotted(parent)} lists what there is."
    return f"Known here: {', '.join(known)}."


def _instead(here: type[BaseModel] | None, name: str, value: object) -> str | None:
    """What the model itself has to say of a field that people look for in it."""
    if here is None or not issubclass(here, ApiModel) or (fix := here.not_fields.get(simplified(name))) is None:
        return None
    field = here.for_text(value) if isinstance(value, str) else None
    return f"Write {field}." if field else fix


def _template_of(parent: Location) -> str | None:
    """The pod template of what is at `parent`: of a role, or of the roles of a deployment."""
    if parent == ("spec",):
        return "roles.ROLE.podTemplate"
    return "podTemplate" if len(parent) == 3 and parent[1] == "roles" else None


def _wrong(detail: Any, location: Location, places: Places, model: type[BaseModel]) -> Problem:
    value = detail["input"]
    reason, fix = words_of(detail, places.written(location))
    if detail["type"] == "model_type":
        fix = _mapping_fix(_model_at(model, location), None if _is_secret(location, value) else value)
    if value is None and _model_at(model, location) is None:
        reason, fix = f"{reason}, and nothing is written here", "Write a value, or remove the line."
    return Problem(places.path(location), _shown(location, value, places), reason, fix, _raw(location, value))


def words_of(detail: Any, written: str | None = None) -> tuple[str, str]:
    """Reason and fix of one of pydantic's errors about a value; `written` is how it stands in a file."""
    kind, value, context = str(detail["type"]), detail["input"], detail.get("ctx") or {}
    if kind == "string_pattern_mismatch":
        return _against_pattern(str(context["pattern"]), str(value))
    if kind in _BOUNDS:
        key, words, fix = _BOUNDS[kind]
        bound = _number(context[key])
        return f"it must be {words.format(bound)}", fix.format(bound)
    if kind in _LENGTHS:
        key, words, unit = _LENGTHS[kind]
        count = context[key]
        verb = f"{count} {unit} is" if count == 1 else f"{count} {unit}s are"
        return words.format(verb), "Give more." if key == "min_length" else "Shorten it."
    if kind == "literal_error":
        return _against_choice(re.findall(r"'([^']*)'", context["expected"]), value)
    if kind == "quantity":
        return "this is no quantity", _quantity_fix(str(value))
    expected = _EXPECTED.get(kind)
    if expected is None:
        return str(detail["msg"]), "Correct it."
    name = str((detail.get("loc") or ("",))[-1])
    return f"{expected.noun} is needed here", expected.fix(value, written, name)


def _quantity_fix(text: str) -> str:
    found = meant(text)
    if found is None:
        return _QUANTITY_FIX
    return f"Write {found}, or {found}i for powers of 1024." if found[-1] in "kMGTPE" else f"Write {found}."


def _against_pattern(regex: str, text: str) -> tuple[str, str]:
    known = _PATTERNS.get(regex)
    return known.advice(text) if known is not None else (f"it does not match {regex}", "Correct it.")


def _against_choice(choices: Sequence[str], value: object) -> tuple[str, str]:
    shown = " or ".join([", ".join(choices[:-1]), choices[-1]] if len(choices) > 1 else choices)
    found = near(value, choices, cutoff=0.6) if isinstance(value, str) else None
    return f"only {shown} can stand here", f"Did you mean {found}?" if found else f"Write {shown}."


def _number_or_text(location: Location, value: object, places: Places) -> Problem:
    reason = "a whole number or a text is needed here"
    written = places.written(location)
    fix = _quoted(value, written) if isinstance(value, float) else "Write a value like 2, 500m or 4Gi."
    return Problem(places.path(location), _shown(location, value, places), reason, fix, _raw(location, value))


@dataclass(frozen=True, slots=True)
class _Expected:
    """A kind of value, and how to come from another one to it."""

    noun: str
    example: str

    def fix(self, value: object, written: str | None, name: str = "") -> str:
        """What to write instead of `value`, in the field `name`."""
        if self.noun == "a text" and isinstance(value, bool | int | float):
            return _quoted(value, written)
        if isinstance(value, str):
            word = {"yes": "true", "on": "true", "no": "false", "off": "false"}.get(value.lower(), value)
            if self.reads(word):
                return f"Write {word} without quotes."
            if "number" in self.noun and (number := _without_unit(value, name)) is not None and self.reads(number):
                return f"Write {number}, without a unit."
        if self.noun == "a whole number" and isinstance(value, float) and value.is_integer():
            return f"Write {int(value)}."
        return f"Write {self.example}."

    def reads(self, text: str) -> bool:
        """Whether `text`, without quotes, would be such a value."""
        try:
            value = json.loads(text)
        except ValueError:
            return False
        kinds = {"a whole number": (int,), "a number": (int, float), "true or false": (bool,)}.get(self.noun, ())
        return type(value) in kinds


_EXPECTED = {
    "string_type": _Expected("a text", "a text"),
    "int_type": _Expected("a whole number", "a whole number, like 4"),
    "int_from_float": _Expected("a whole number", "a whole number, like 4"),
    "float_type": _Expected("a number", "a number, like 0.9"),
    "bool_type": _Expected("true or false", "true or false"),
    "tuple_type": _Expected("a list", "items with a dash before each, or [a, b]"),
    "list_type": _Expected("a list", "items with a dash before each, or [a, b]"),
    "dict_type": _Expected("a map", "key: value lines"),
    "model_type": _Expected("a map", "key: value lines"),
    "model_attributes_type": _Expected("a map", "key: value lines"),
}


def _quoted(value: object, written: str | None) -> str:
    text = written if written is not None else json.dumps(value)
    return f'Quote it: "{text}".'


def _without_unit(text: str, name: str) -> str | None:
    """The number that a text with a unit stands for in the field `name`, whose own unit is at its end."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([a-z%]+)", text.strip().lower())
    if match is None:
        return None
    scale = _UNITS.get(match[2])
    own = next((_UNITS[unit] for end, unit in (("Seconds", "s"), ("Ms", "ms")) if name.endswith(end)), None)
    if own is None:
        scale = {"%": Decimal("0.01"), "k": Decimal(1024), "m": Decimal(2**20)}.get(match[2])
    if scale is None:
        return None
    number = Decimal(match[1]) * scale / (own or 1)
    return format(number.normalize(), "f")


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else str(value)


def _shown(location: Location, value: object, places: Places) -> str:
    """The value as text; not what may be a secret, nor maps and lists, which may hold one."""
    if _is_secret(location, value) or (isinstance(value, dict | list) and value):
        return ""
    written = places.written(location)
    return shorten(value) if isinstance(value, str) or written is None or value is None else _shorten_text(written)


def _raw(location: Location, value: object) -> Scalar | None:
    return None if _is_secret(location, value) else raw_of(value)


def _is_secret(location: Location, value: object) -> bool:
    return bool(location) and isinstance(value, str) and _names_secret(str(location[-1]))


def _names_secret(name: str) -> bool:
    form = simplified(name)
    return form.endswith(_FOR_SECRETS) or bool(difflib.get_close_matches(form, _SECRETS, n=1))


def _shorten_text(text: str) -> str:
    """A scalar that is not a text, as it stands in the file."""
    return text if len(text) <= 120 else f"{text[:119]}…"


def _mapping_fix(model: type[BaseModel] | None, value: object) -> str:
    field = model.for_text(value) if model and issubclass(model, ApiModel) and isinstance(value, str) else None
    if field:
        return f"Write {{{field}}}."
    required = (
        [field.alias or name for name, field in model.model_fields.items() if field.is_required()] if model else []
    )
    if isinstance(value, str) and len(required) == 1 and re.fullmatch(r"[\w./-]{1,63}", value):
        return f"Write {{{required[0]}: {value}}}."
    known = _fields(model)
    return f"Write key: value lines; known here: {', '.join(known)}." if known else "Write key: value lines."


def _addition(model: type[BaseModel], location: Location) -> str:
    here = _model_at(model, location)
    if here is not None and issubclass(here, ApiModel) and here.example:
        return f"Add {location[-1]}: {here.example}."
    below = _fields(here)
    return f"Add {location[-1]}, with {' or '.join(below)}." if 0 < len(below) < 6 else f"Add {location[-1]}."


def _fields(model: type[BaseModel] | None) -> list[str]:
    return sorted(field.alias or name for name, field in model.model_fields.items()) if model else []


def _places_of(name: str, model: type[BaseModel], above: tuple[str, ...]) -> Iterator[str]:
    """The paths of the models that have a field `name`; status is not a user's."""
    if len(above) > 5:
        return
    for own, field in model.model_fields.items():
        alias = field.alias or own
        if above and simplified(alias) == simplified(name):
            yield ".".join(above)
        inner = _model_in(field.annotation)
        if inner is not None and alias not in ("status", "metadata"):
            yield from _places_of(name, inner, (*above, alias))


def _model_at(model: type[BaseModel], location: Location) -> type[BaseModel] | None:
    """The model that describes the value at `location`."""
    current: type[BaseModel] | None = model
    for part in location:
        if current is None:
            return None
        if isinstance(part, int):
            continue
        annotations = (field.annotation for name, field in current.model_fields.items() if part in (name, field.alias))
        current = next((_model_in(annotation) for annotation in annotations), None)
    return current


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = (_model_in(argument) for argument in getattr(annotation, "__args__", ()))
    return next((model for model in found if model is not None), None)
