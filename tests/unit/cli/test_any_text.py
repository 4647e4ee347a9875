"""Whatever stands in a file: an answer or located problems, never a traceback or another library's words."""

import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tandem.cli.app import run

EXAMPLES = [path.read_text() for path in sorted((Path(__file__).parents[3] / "docs" / "examples").glob("*.yaml"))]
PIECES = [
    *("{", "}", "[", "]", ":", "- ", "\t", "\n", "  ", "&a ", "*a", "<<: *a", "'", '"', "|", "> ", "%", "---", "..."),
    *(
        "null",
        "~",
        "true",
        "0.33",
        "-1",
        "1e99",
        "9" * 30,
        "é",
        "\u2028",
        "\x00",
        "!!int ",
        "!!bool ",
        "!x ",
        "? ",
        "# ",
    ),
    *("spec:", "metadata:", "parameters:", "{}", "[]", "token", ".nan", "2026-01-01", "0x_", "=", "on", "y: 1"),
]
FOREIGN = re.compile(r"Input should|String should|Traceback|NoneType|TypeError|KeyError")


@st.composite
def texts(draw: st.DrawFn) -> str:
    """An example with pieces put in, taken out or put in a word's place."""
    text = draw(st.sampled_from(EXAMPLES))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(text)))
        taken = draw(st.integers(0, 12))
        text = text[:at] + draw(st.sampled_from(["", *PIECES])) + text[at + taken :]
    return text


@pytest.mark.parametrize("command", ["validate", "explain", "render"])
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=texts())
def test_a_spoilt_example_is_answered_or_refused_with_its_place(command, text, tmp_path, capsys):
    file = tmp_path / "d.yaml"
    file.write_text(text)
    code = run([command, "-f", str(file)])
    said = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("warning: ")]
    assert code == (1 if said else 0)
    for line in said:
        assert line.startswith((f"error: {file}:", "error: templates/", "error: rules/"))
        assert not FOREIGN.search(line)
