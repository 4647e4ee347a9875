"""A blueprint as one short text: what a probe tells, and what a status keeps."""

from __future__ import annotations

import base64
import binascii
import zlib

from tandem.api.problems import refuse
from tandem.blueprint.document import MAX_CHARACTERS, canonical, from_dict, parse_json
from tandem.blueprint.model import Blueprint


def pack(blueprint: Blueprint) -> str:
    """The canonical text, compressed; about 1 KB."""
    return base64.b64encode(zlib.compress(canonical(blueprint).encode(), 9)).decode()


def unpack(text: str, place: str) -> Blueprint:
    """What `pack` made; raises `Refused`, located at `place`. Bounded, whoever wrote the text."""
    try:
        stream = zlib.decompressobj()
        data = stream.decompress(base64.b64decode(text, validate=True), MAX_CHARACTERS)
        canonical_text = data.decode() if stream.eof else ""
    except (binascii.Error, zlib.error, ValueError):
        canonical_text = ""
    if not canonical_text:
        fix = "Delete the ModelBlueprint, so that the model is read again."
        raise refuse(place, None, "these are no packed facts", fix)
    return from_dict(parse_json(canonical_text, place), place=f"{place}: ")
