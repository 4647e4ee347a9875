"""From the text of a file to a blueprint: a model's config.json, or a blueprint that was written or declared."""

from __future__ import annotations

from tandem.blueprint.config import from_config
from tandem.blueprint.document import from_dict, parse_json
from tandem.blueprint.index import Index
from tandem.blueprint.model import Blueprint


def read_text(text: str, name: str, *, index: Index | None = None) -> Blueprint:
    """The blueprint of a text; raises `Refused`, located in `name`."""
    document = parse_json(text, name)
    if "schema_version" in document:
        return from_dict(document, place=f"{name}: ")
    return from_config(document, place=f"{name}: ", index=index)
