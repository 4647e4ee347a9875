"""Rows of `tandem explain`: each effective value, where it comes from, and the flag that it became."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from pydantic.alias_generators import to_camel

from tandem.api.parameters import EngineParameters
from tandem.api.problems import refuse
from tandem.manifests.model import Build


@dataclass(frozen=True, slots=True)
class ExplainRow:
    """One value of one role. `flag` is empty when the engine does it anyway."""

    role: str
    parameter: str
    value: str
    source: str
    detail: str
    flag: str

    def as_dict(self) -> dict[str, str]:
        """The fields by name, for `-o json`."""
        return asdict(self)


def explain(build: Build, parameter: str | None = None) -> tuple[ExplainRow, ...]:
    """All rows, or those of one parameter (camelCase or snake_case); raises `Refused` for an unknown name."""
    known = {name: to_camel(name) for name in EngineParameters.model_fields}
    wanted = next((name for name, camel in known.items() if parameter in (name, camel)), None)
    if parameter is not None and wanted is None:
        fix = f"Parameters: {', '.join(known.values())}."
        raise refuse("--parameter", parameter, "there is no parameter of this name", fix)
    return tuple(
        ExplainRow(
            role=item.role,
            parameter=known[item.name],
            value=item.text,
            source=item.source,
            detail=item.detail,
            flag=" ".join(item.arguments),
        )
        for item in build.parameters
        if wanted in (None, item.name)
    )
