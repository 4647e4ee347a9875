"""Whatever a `config.yml` says is what the typed properties give, or it is refused with its place."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tandem_serve.config import load_config
from tandem_serve.problems import StartError

WHOLE = st.integers(1, 10**6)
RIGHT: dict[str, tuple[str, st.SearchStrategy[Any]]] = {
    "MAX_NEW_TOKENS": ("max_new_tokens", WHOLE),
    "DEFAULT_MAX_NEW_TOKENS": ("default_max_new_tokens", WHOLE),
    "TIMEOUT_SECONDS": ("generation_timeout", st.floats(0.001, 1e6) | WHOLE),
    "OCCUPANCY_SEMAPHORE": ("occupancy_semaphore", WHOLE),
    "MAX_PROMPT_TOKENS": ("max_prompt_tokens", WHOLE),
    "ON_OVERLONG": ("on_overlong", st.sampled_from(["reject", "truncate"])),
    "MAX_QUEUE": ("max_queue", st.integers(0, 10**6)),
}
"""Property and values of each key."""
WRONG = st.one_of(
    st.integers(max_value=-1),
    st.booleans(),
    st.none(),
    st.lists(st.integers(), max_size=2),
    st.sampled_from(["", "5", "Reject", math.inf, math.nan]),
)
few = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@few
@given(
    given=st.fixed_dictionaries({}, optional={key: values for key, (_, values) in RIGHT.items()}),
    port=st.none() | st.integers(0, 65535),
)
def test_s1_19_each_property_is_what_the_file_says_and_of_its_type(
    tmp_path: Path, given: dict[str, Any], port: int | None
) -> None:
    file = tmp_path / "config.yml"
    file.write_text(yaml.safe_dump({"GENERATION": given}))
    config = load_config(file, {} if port is None else {"PORT": str(port)})
    defaults = load_config(None, {})
    assert (config.port, type(config.port)) == (8000 if port is None else port, int)
    for key, (name, _) in RIGHT.items():
        value = getattr(config, name)
        said = given.get(key, getattr(defaults, name))
        assert value == (min(said, config.max_new_tokens) if key == "DEFAULT_MAX_NEW_TOKENS" else said)
        assert type(value) is type(getattr(defaults, name))
        with pytest.raises(AttributeError):
            setattr(config, name, value)


@few
@given(key=st.sampled_from(sorted(RIGHT)), value=WRONG)
def test_s1_19_a_value_that_is_none_is_refused_with_its_place(tmp_path: Path, key: str, value: Any) -> None:
    file = tmp_path / "config.yml"
    file.write_text(yaml.safe_dump({"GENERATION": {key: value}}))
    with pytest.raises(StartError) as refused:
        load_config(file, {})
    assert f"{file}: GENERATION.{key} = " in str(refused.value)
    assert "Fix: " in str(refused.value)
