"""The condition Fits: whether each role's workers have the memory that the model needs. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tandem.controller.conditions import Condition, false, true, unknown
from tandem.controller.facts import Known
from tandem.manifests.fitting import RoleFit, Unjudged


@dataclass(frozen=True, slots=True)
class Judged:
    """The condition; `blocks`: the spec is not rolled out for it."""

    condition: Condition
    blocks: bool = False


def judged(fits: Sequence[RoleFit | Unjudged], known: Known, *, late: bool, overridden: bool) -> Judged:
    """The verdict on all roles; `late`: workers are there already, from when this was not known."""
    if not fits:
        return Judged(unknown("Fits", known.reason or "ModelNotRead", known.message))
    note = [known.message] if known.message else []
    wrong = [str(problem) for fit in fits if (problem := fit.problem) is not None]
    if wrong:
        why = "rolled out all the same: spec.overrideFits" if overridden else ""
        if late and not overridden:
            why = "rolled out before this was known"
        text = "\n".join([*wrong, *([why] if why else []), *note])
        return Judged(false("Fits", "DoesNotFit", text), blocks=not (late or overridden))
    unjudged = [str(fit.why) for fit in fits if isinstance(fit, Unjudged)]
    if unjudged:
        return Judged(unknown("Fits", "MemoryUnknown", "\n".join([*unjudged, *note])))
    told = [fit.told for fit in fits if isinstance(fit, RoleFit)]
    return Judged(true("Fits", "Fits", "\n".join([*told, *note])))
