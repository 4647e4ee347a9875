"""Writes the part of constraints.txt that the torch layer of the server's image depends on; --check: is it fresh?

A new version of anything else must not build that layer, which has gigabytes, again.
"""

from __future__ import annotations

import importlib.metadata
import sys
import tomllib
from collections.abc import Callable, Iterable
from itertools import chain
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tandem.api.generated import write_or_check

ROOT = Path(__file__).parents[1]
TORCH = "torch"

Needs = Callable[[Requirement], Iterable[str]]


def torch_part(constraints: str, project: Iterable[str], needs: Needs) -> str:
    """The lines of `constraints` that torch needs, or that nothing else among the requirements `project` does.

    The build of torch that is installed here may need less than another one, so lines of no known use stay.
    """
    wanted = [Requirement(text) for text in project]
    others = closure((one for one in wanted if canonicalize_name(one.name) != TORCH), needs)
    foreign = others - closure([Requirement(TORCH)], needs)
    return "".join(f"{line}\n" for line in constraints.splitlines() if _name(line) not in foreign)


def closure(requirements: Iterable[Requirement], needs: Needs) -> set[str]:
    """The names of packages that these requirements lead to, themselves included."""
    found: set[str] = set()
    seen: set[tuple[str, frozenset[str]]] = set()
    waiting = list(requirements)
    while waiting:
        one = waiting.pop()
        key = canonicalize_name(one.name), frozenset(one.extras)
        if key not in seen:
            seen.add(key)
            found.add(key[0])
            waiting += [Requirement(text) for text in needs(one)]
    return found


def installed_needs(one: Requirement) -> list[str]:
    """What an installed package requires, its requested extras included; nothing for one that is not installed."""
    try:
        found = importlib.metadata.requires(one.name) or []
    except importlib.metadata.PackageNotFoundError:
        return []
    return [text for text in found if _applies(Requirement(text), one.extras)]


def project_requirements() -> list[str]:
    """Everything that pyproject.toml names, all extras included."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [*project["dependencies"], *chain.from_iterable(project["optional-dependencies"].values())]


def _applies(one: Requirement, extras: Iterable[str]) -> bool:
    # Only extras are decided here: what the platform decides is in the lines of constraints.txt.
    marker = str(one.marker or "")
    return "extra ==" not in marker or any(f'extra == "{extra}"' in marker for extra in extras)


def _name(line: str) -> str:
    return canonicalize_name(Requirement(line).name)


def main(arguments: list[str]) -> int:
    """Writes images/torch-constraints.txt, or with --check tells whether it is stale (exit 1)."""
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    text = torch_part(constraints, project_requirements(), installed_needs)
    return write_or_check({"torch-constraints.txt": text}, arguments, default="images")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
