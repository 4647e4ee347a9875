"""What a role's containers ask of their node."""

from __future__ import annotations

import re
from collections.abc import Mapping

from tandem.api.deployment import Resources

_ACCELERATOR = re.compile(r"/.*(gpu|mig-|tpu|npu|gaudi|neuron|ascend|i915|xe$)", re.IGNORECASE)


def resource_lists(resources: Resources | None) -> dict[str, dict[str, str]]:
    """`resources` as a container has them: quantities are texts, what is not given is left out."""
    given: Mapping[str, Mapping[str, int | str] | None] = (
        {} if resources is None else {"requests": resources.requests, "limits": resources.limits}
    )
    return {kind: {key: str(value) for key, value in amounts.items()} for kind, amounts in given.items() if amounts}


def is_accelerator(resource: str) -> bool:
    """Whether a resource stands for an accelerator."""
    return _ACCELERATOR.search(resource) is not None
