"""What all resource models share: strict, frozen, camelCase, rules declared once for pydantic and API server."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError

API_GROUP = "tandem.dev"
API_VERSION = f"{API_GROUP}/v1alpha1"

# RFC 1123 names as the API server writes them; lengths are bounded so that CEL cost estimates stay small.
DnsLabel = Annotated[str, Field(max_length=63, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]
DnsName = Annotated[str, Field(max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")]
SecretKey = Annotated[str, Field(max_length=253, pattern=r"^[-._a-zA-Z0-9]+$")]
# Of k8s.io/apimachinery/pkg/api/resource, without the sign: the API server fails on other texts deep inside an apply.
_QUANTITY = r"^([0-9]+(\.[0-9]*)?|\.[0-9]+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]+)?$"


def _check_quantity(value: int | str) -> int | str:
    if re.match(_QUANTITY, str(value)) is None:
        raise PydanticCustomError("quantity", "this is no quantity: write a number with a unit, like 2, 500m or 4Gi")
    return value


Quantity = Annotated[
    int | str,
    Field(
        union_mode="left_to_right",
        json_schema_extra={"x-kubernetes-int-or-string": True, "pattern": _QUANTITY},
        description="A Kubernetes quantity: 2, 500m, 4Gi.",
    ),
    AfterValidator(_check_quantity),
]


@dataclass(frozen=True, slots=True)
class Rule:
    """A condition over several fields, declared once: `cel` for the API server, `holds` for pydantic.

    `message` is shown by both and says what to do.
    """

    cel: str
    message: str
    holds: Callable[[Any], bool]


class ApiModel(BaseModel):
    """A part of a resource. Unknown fields are refused; values are never coerced; instances are frozen."""

    model_config = ConfigDict(
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

    @model_validator(mode="after")
    def _check_rules(self) -> Self:
        for rule in self.cel_rules:
            if not rule.holds(self):
                raise PydanticCustomError("rule", "{message}", {"message": rule.message})
        return self

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: Any, handler: Any) -> dict[str, Any]:
        """Adds the class's rules as CEL validations."""
        schema: dict[str, Any] = handler.resolve_ref_schema(handler(core_schema))
        if cls.cel_rules:
            schema["x-kubernetes-validations"] = [{"rule": rule.cel, "message": rule.message} for rule in cls.cel_rules]
        return schema

    def as_manifest(self) -> dict[str, Any]:
        """The model as a user would write it: camelCase, without what was left unset."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_unset=True)


def exactly_one(*fields: str, message: str) -> Rule:
    """A rule that exactly one of `fields` (Python names) is given."""
    cel = " + ".join(f"(has(self.{_field_name(name)}) ? 1 : 0)" for name in fields)
    return Rule(
        cel=f"{cel} == 1",
        message=message,
        holds=lambda model: sum(getattr(model, name) is not None for name in fields) == 1,
    )


def never(field: str, message: str) -> Rule:
    """A rule that `field` is never given: it is declared only so that its refusal says what to do instead."""
    return Rule(
        cel=f"!has(self.{_field_name(field)})", message=message, holds=lambda model: getattr(model, field) is None
    )


def _field_name(name: str) -> str:
    """The name in YAML of the Python field `name`; a trailing underscore only keeps it from being a keyword."""
    return to_camel(name.rstrip("_"))


class LocalRef(ApiModel):
    """The name of an object in the same namespace."""

    name: DnsName


class SecretKeyRef(ApiModel):
    """One key of a Secret in the same namespace."""

    name: DnsName
    key: SecretKey


class ObjectMeta(BaseModel):
    """The part of `metadata` that Tandem reads; everything else the API server keeps to itself."""

    model_config = ConfigDict(frozen=True, extra="ignore", alias_generator=to_camel, validate_by_name=True)

    name: str = ""
    namespace: str = "default"
    uid: str = ""
    generation: int = 0
    resource_version: str = ""
    deletion_timestamp: str | None = None
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)
