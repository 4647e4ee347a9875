"""Structural schemas: what is expressed, and that the rest is refused with its path."""

from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, Field

from tandem.api.schema import SchemaError, structural_schema


class Inner(BaseModel):
    word: Annotated[str, Field(pattern="^a+$", max_length=5)]


def test_an_optional_field_keeps_its_type_and_is_not_required():
    class Model(BaseModel):
        inner: Inner | None = None
        count: Annotated[int, Field(ge=1, le=3)]

    schema = structural_schema(Model)

    assert schema["required"] == ["count"]
    assert schema["properties"]["count"] == {"type": "integer", "minimum": 1, "maximum": 3}
    assert schema["properties"]["inner"]["properties"]["word"] == {"type": "string", "pattern": "^a+$", "maxLength": 5}


def test_an_exclusive_bound_takes_the_openapi_3_0_form():
    class Model(BaseModel):
        share: Annotated[float, Field(gt=0, le=1)]

    assert structural_schema(Model)["properties"]["share"] == {
        "type": "number",
        "minimum": 0,
        "exclusiveMinimum": True,
        "maximum": 1,
    }


def test_a_literal_becomes_an_enum_with_its_default():
    class Model(BaseModel):
        mode: Literal["agg", "disagg"] = "agg"

    assert structural_schema(Model)["properties"]["mode"] == {
        "type": "string",
        "enum": ["agg", "disagg"],
        "default": "agg",
    }


def test_a_list_is_atomic_unless_it_says_otherwise():
    class Model(BaseModel):
        sizes: tuple[int, ...] = ()

    schema = structural_schema(Model)["properties"]["sizes"]

    assert schema["items"] == {"type": "integer"}
    assert schema["x-kubernetes-list-type"] == "atomic"


def test_a_union_of_two_types_is_refused_with_its_path():
    class Model(BaseModel):
        either: int | str

    with pytest.raises(SchemaError, match=r"Model\.either: a union of 2 types"):
        structural_schema(Model)


def test_a_free_form_object_must_say_so():
    class Model(BaseModel):
        anything: dict

    with pytest.raises(SchemaError, match=r"Model\.anything"):
        structural_schema(Model)


class Node(BaseModel):
    child: "Node | None" = None


def test_a_recursive_model_is_refused():
    with pytest.raises(SchemaError, match="recursive model Node"):
        structural_schema(Node)
