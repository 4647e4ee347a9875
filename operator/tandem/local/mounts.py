"""Volumes as directories of this machine, and the paths of containers rewritten to them.

A process sees the real file system, so a path below a mount (`/models/qwen`) becomes the path of the directory that
stands in for it. Rewritten are arguments and variables that are such a path as a whole, or end in one after `=`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Mounts:
    """Directories (or files, for a subPath) of this machine by the path at which the container sees them."""

    places: Mapping[str, Path]

    def rewrite(self, text: str) -> str:
        """`text` with the container's path in it replaced by this machine's; the longest mount path wins."""
        if not self.places:
            return text
        longest_first = sorted(self.places, key=len, reverse=True)
        pattern = rf"(^|=)({'|'.join(re.escape(path) for path in longest_first)})(?=/|$)"
        return re.sub(pattern, lambda match: match.group(1) + str(self.places[match.group(2)]), text, count=1)
