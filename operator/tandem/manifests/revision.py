"""The revision: a short hash of what prefill and decode workers must agree on.

It covers, and nothing else:

- the model's source: claim and path, or repository and revision;
- backend, version and image (a role's own when its podTemplate names one): both ends of a hand-off must run the same
  code;
- how many nodes a worker takes, where that is more than one: such workers are made by another kind of object;
- the flags and settings that the mapping table lists under `agreement` (number format, block size, attention
  kernels…), wherever they come from: parameters, rules, or extraArgs, per role.

An edit of anything else keeps the revision: it rolls the role's own workload in place. The same function serves both
modes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence

from tandem.manifests.names import short_hash
from tandem.rendering.extra import given_flags
from tandem.rendering.pipeline import Rendering
from tandem.rendering.values import Value


def revision(*, model: str, images: Sequence[str], nodes: Mapping[str, int], rendering: Rendering) -> str:
    """The revision of workers that serve `model` (its identity) as rendered; `images` has one image per role, `nodes`
    how many nodes a worker of each role takes."""
    table = rendering.table
    agreed = [
        [role.role, *given_flags(role.command, table.agreement), *_settled(role.settings, table.agreement)]
        for role in rendering.roles
    ]
    spanning = [[[role, count] for role, count in nodes.items() if count > 1]] if max(nodes.values()) > 1 else []
    return short_hash(json.dumps([model, table.backend, table.version, list(images), agreed, *spanning]))


def disagreements(rendering: Rendering) -> Iterator[str]:
    """Warnings about what prefill and decode workers must agree on and do not: hand-offs may be refused."""
    table = rendering.table
    agreed = [
        {
            **{name: " ".join(values) or "given" for name, *values in given_flags(role.command, table.agreement)},
            **{str(name): str(value) for name, value in _settled(role.settings, table.agreement)},
        }
        for role in rendering.roles
        if role.role in ("prefill", "decode")
    ]
    if len(agreed) < 2:
        return
    prefill, decode = agreed
    for name in sorted(prefill.keys() | decode.keys()):
        one, other = prefill.get(name, "not given"), decode.get(name, "not given")
        if one != other:
            told = f"{name} is {one} for prefill and {other} for decode"
            yield f"{told}: workers that differ may refuse each other's KV cache. Set it for both"


def _settled(settings: Mapping[str, Value | None], names: frozenset[str]) -> list[list[object]]:
    return [[name, settings[name]] for name in sorted(names & settings.keys())]
