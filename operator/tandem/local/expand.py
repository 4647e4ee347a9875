"""`$(NAME)` in commands, arguments and variables, expanded as the kubelet does it."""

from __future__ import annotations

import re
from collections.abc import Mapping

# `$$` stands for one dollar sign, so `$$(X)` is the text `$(X)`.
_REFERENCE = re.compile(r"\$(?:\$|\(([^)]*)\))")


def expand(text: str, variables: Mapping[str, str]) -> str:
    """`text` with every `$(NAME)` of a known name replaced; unknown names and lone dollar signs stay as they are."""

    def value(match: re.Match[str]) -> str:
        name = match.group(1)
        return "$" if name is None else variables.get(name, match.group(0))

    return _REFERENCE.sub(value, text)
