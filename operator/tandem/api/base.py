"""What all resource models share: strict, frozen, camelCase, rules declared once for pydantic and API server."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, model_validator
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError

from tandem.api import patterns
from tandem.api.quantity import QUANTITY

API_GROUP = "tandem.dev"
API_VERSION = f"{API_GROUP}/v1alpha1"

DnsLabel = Annotated[str, Field(max_length=63, pattern=patterns.DNS_LABEL.regex)]
DnsName = Annotated[str, Field(max_length=253, pattern=patterns.DNS_NAME.regex)]
DataKey = Annotated[str, Field(max_length=253, pattern=patterns.DATA_KEY.regex)]


def _check_quantity(value: int | str) -> int | str:
    if re.match(QUANTITY, str(value)) is None:
        raise PydanticCustomError("quantity", "this is no quantity")
    return value


Quantity = Annotated[
    int | str,
    Field(
        union_mode="left_to_right",
        json_schema_extra={"x-kubernetes-int-or-string": True, "pattern": QUANTITY},
        description="A Kubernetes quantity: 2, 500m, 4Gi.",
    ),
    AfterValidator(_check_quantity),
]

Location = tuple[int | str, ...]
WITHOUT_RULES: Mapping[str, object] = MappingProxyType({"rules": False})
"""The context in which models are validated without their rules."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A condition over several fields, declared once: `holds` for pydantic, `cel` for the API server.

    Without `cel` only Tandem checks it: where the API server's language or its bound on costs is not enough.

    `reason` says why it is broken, `fix` what to do. `field` (as in YAML) is the one that it is told at, with `key`
    where the field is a map (the API server tells it at the map). What is told with it: `found` of the model, or which
    of the fields `shown` (Python names) it has.
    """

    reason: str
    fix: str
    holds: Callable[[Any], bool]
    cel: str = ""
    field: str = ""
    key: str = ""
    shown: tuple[str, ...] = ()
    found: Callable[[Any], tuple[str, ...]] | None = None

    @property
    def message(self) -> str:
        """Reason and fix in one, for the API server."""
        return f"{self.reason}: {self.fix[0].lower()}{self.fix[1:].rstrip('.')}"

    @property
    def validation(self) -> dict[str, str]:
        """The rule as a CEL validation of a CustomResourceDefinition."""
        located = {"fieldPath": f".{self.field}"} if self.field else {}
        return {"rule": self.cel, "message": self.message, **located}


@dataclass(frozen=True, slots=True)
class Broken:
    """A rule that a value breaks, with what is told of the value."""

    rule: Rule
    given: tuple[str, ...]


class ApiModel(BaseModel):
    """A part of a resource. Unknown fields are refused; values are never coerced; instances are frozen."""

    # A command needs few of the models: each is built when it is first used.
    model_config = ConfigDict(
        defer_build=True,
        frozen=True,
        extra="forbid",
        strict=True,
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
        ser_json_inf_nan="strings",
        allow_inf_nan=False,
    )

    cel_rules: ClassVar[tuple[Rule, ...]] = ()
    not_fields: ClassVar[Mapping[str, str]] = {}
    """What to do instead, by the `simplified` name of a field that people look for and that there is not."""
    example: ClassVar[str] = ""
    """A value in YAML's short form, for messages."""

    @classmethod
    def for_text(cls, text: str) -> str | None:  # noqa: ARG003 - for models that know
        """The field that a mere `text` stands for, in YAML's short form; None when that is unclear."""
        return None

    @model_validator(mode="after")
    def _check_rules(self, info: ValidationInfo) -> Self:
        if info.context is not WITHOUT_RULES and (broken := self._broken()):
            text = "; ".join(each.rule.message for each in broken)
            raise PydanticCustomError("rule", "{text}", {"text": text, "broken": broken})
        return self

    def _broken(self) -> tuple[Broken, ...]:
        broken = (rule for rule in self.cel_rules if not rule.holds(self))
        return tuple(Broken(rule, rule.found(self) if rule.found else self._given(rule.shown)) for rule in broken)

    def _given(self, names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(field_name(name) for name in names if getattr(self, name) is not None)

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: Any, handler: Any) -> dict[str, Any]:
        """Adds the class's rules as CEL validations."""
        schema: dict[str, Any] = handler.resolve_ref_schema(handler(core_schema))
        if any(rule.cel for rule in cls.cel_rules):
            schema["x-kubernetes-validations"] = [rule.validation for rule in cls.cel_rules if rule.cel]
        return schema

    def as_manifest(self) -> dict[str, Any]:
        """The model as a user would write it: camelCase, without what was left unset."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_unset=True)


def broken_rules(value: object, location: Location = ()) -> Iterator[tuple[Location, Broken]]:
    """Every rule that is broken anywhere in `value`, which was validated `WITHOUT_RULES`, with where.

    Validation itself stops at the innermost: what a map around it breaks would be told only in the next round.
    """
    if isinstance(value, tuple):
        for index, item in enumerate(value):
            yield from broken_rules(item, (*location, index))
    elif isinstance(value, BaseModel):
        if isinstance(value, ApiModel):
            yield from ((location, broken) for broken in value._broken())
        for name, field in type(value).model_fields.items():
            yield from broken_rules(getattr(value, name), (*location, field.alias or name))


def exactly_one(*fields: str, reason: str) -> Rule:
    """A rule that exactly one of `fields` (Python names) is given."""
    names = [field_name(name) for name in fields]
    return Rule(
        cel=" + ".join(f"(has(self.{name}) ? 1 : 0)" for name in names) + " == 1",
        reason=reason,
        fix=f"Give exactly one of {', '.join(names[:-1])} or {names[-1]}.",
        holds=lambda model: sum(getattr(model, name) is not None for name in fields) == 1,
        shown=fields,
    )


def never(field: str, *, reason: str, fix: str) -> Rule:
    """A rule that `field` is never given: it is declared only so that its refusal says what to do instead."""
    name = field_name(field)
    return Rule(
        cel=f"!has(self.{name})",
        reason=reason,
        fix=fix,
        holds=lambda model: getattr(model, field) is None,
        field=name,
    )


def field_name(name: str) -> str:
    """The name in YAML of the Python field `name`; a trailing underscore only keeps it from being a keyword."""
    return to_camel(name.rstrip("_"))


class LocalRef(ApiModel):
    """The name of an object in the same namespace."""

    name: DnsName = Field(description="Name of the object.")


class SecretKeyRef(ApiModel):
    """One key of a Secret in the same namespace."""

    name: DnsName = Field(description="Name of the Secret.")
    key: DataKey = Field(description="Key in it.")


# What else the API server has there.
OTHER_METADATA = frozenset(
    (
        *("generateName", "finalizers", "ownerReferences", "creationTimestamp", "deletionGracePeriodSeconds"),
        *("managedFields", "selfLink"),
    )
)


class ObjectMeta(BaseModel):
    """The part of `metadata` that Tandem reads; everything else the API server keeps to itself."""

    model_config = ConfigDict(
        defer_build=True, frozen=True, extra="ignore", alias_generator=to_camel, validate_by_name=True
    )

    name: str = ""
    namespace: str = "default"
    uid: str = ""
    generation: int = 0
    resource_version: str = ""
    deletion_timestamp: str | None = None
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)
