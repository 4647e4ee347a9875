"""Values as text that JSON and YAML parsers read back unchanged."""

from __future__ import annotations

import json
import re

# What YAML does not take unescaped inside double quotes, and JSON does not mind to have escaped.
_UNPRINTABLE = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")

_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(", ", ": "))


def to_json(value: object) -> str:
    """`value` as JSON that is YAML too: one line, keys in the given order, unprintable characters escaped.

    Raises TypeError or ValueError for what has no JSON form (NaN, undefined names).
    """
    text = _ENCODER.encode(value)
    if _UNPRINTABLE.search(text):
        text = _UNPRINTABLE.sub(lambda match: f"\\u{ord(match.group()):04x}", text)
    return text
