"""Command lines as Kubernetes takes them.

The kubelet replaces `$(NAME)` in arguments and reads `$$` as `$`. A value of a user must arrive byte for byte, so every
`$` in it is doubled; a reference to a variable, which only templates can make, is written as `$(NAME)`.
"""

from __future__ import annotations

from collections.abc import Iterable

from tandem.rendering.values import Argument, EnvRef


def escaped(text: str) -> str:
    """`text` so that the kubelet's expansion gives back exactly `text`."""
    return text.replace("$", "$$")


def as_container_args(arguments: Iterable[Argument]) -> list[str]:
    """Arguments as they stand in a container's `args`."""
    return [f"$({item.name})" if isinstance(item, EnvRef) else escaped(item) for item in arguments]
