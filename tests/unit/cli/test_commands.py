"""The command as a whole: help of every subcommand, exit codes, how problems are told, what is not imported."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tandem.cli.app import COMMANDS, run

HEAVY = ("kopf", "kubernetes", "fastapi", "uvicorn", "aiohttp", "torch", "transformers")
EXAMPLE = Path(__file__).parents[3] / "docs" / "examples" / "demo-disagg.yaml"


@pytest.mark.parametrize("arguments", [[], *([name] for name in COMMANDS), ["local", "up"]], ids=" ".join)
def test_every_command_has_help_with_an_example(arguments, capsys):
    assert run([*arguments, "--help"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("Usage: tandem")
    if arguments != ["local"]:  # a group; its command has one
        assert "Example: tandem" in shown


def test_the_table_of_commands_says_what_the_commands_say(capsys):
    for name in COMMANDS:
        run([name, "--help"])
    capsys.readouterr()
    run(["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert all(entry.summary in shown for entry in COMMANDS.values())


@pytest.mark.parametrize("command", ["--help", "--version", "render", "explain", "validate", "crds"])
def test_offline_commands_import_nothing_heavy(command):
    arguments = [command] if command.startswith("--") or command == "crds" else [command, "-f", str(EXAMPLE)]
    code = (
        "import sys; from tandem.cli.app import run; "
        f"code = run({arguments!r}); "
        f"print(sorted(set(sys.modules) & set({HEAVY!r})), file=sys.stderr); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["rendr"], "Did you mean 'render'?"),
        (["render"], "Missing option '-f'"),
        (["render", "--nope"], "No such option"),
        (["local", "up", "-f", "x", "--max-tokens", "5"], "--once"),
        (["local", "up", "-f", "x", "--volume", "models"], "not of the form NAME=VALUE"),
        (["local", "up", "-f", "x", "--port", "70000"], "70000"),
        (["router", "--deployment", "d"], "Missing option"),
        (["validate", "-f", "x", "-o", "xml"], "xml"),
    ],
)
def test_wrong_usage_exits_2_and_says_what_is_wrong(arguments, said, capsys):
    assert run(arguments) == 2
    output = capsys.readouterr()
    assert said in output.err
    assert output.out == ""


def test_without_arguments_the_help_is_shown(capsys):
    assert run([]) == 2
    assert "Commands:" in capsys.readouterr().err


def test_every_problem_is_one_line_on_stderr(tmp_path, capsys):
    file = tmp_path / "d.yaml"
    file.write_text(
        "apiVersion: tandem.dev/v1alpha1\nkind: ModelDeployment\nmetadata: {name: x}\n"
        "spec: {model: {pvc: {claimName: m}}, mode: disag, backendd: torch}\n"
    )
    assert run(["render", "-f", str(file)]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all(line.startswith(f"error: {file}:1: spec.") for line in lines)


@pytest.mark.parametrize("command", ["render", "explain", "validate", "local up"])
@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "the file does not exist"),
        ("a: [1", "malformed YAML"),
        ("kind: Pod", "not one of Tandem's"),
        ("", "holds no resource"),
        ("- 1", "a resource is a mapping"),
    ],
)
def test_a_bad_file_is_a_located_error_for_every_command(command, text, said, tmp_path, capsys):
    file = tmp_path / "bad.yaml"
    if text is not None:
        file.write_text(text)
    assert run([*command.split(), "-f", str(file)]) == 1
    output = capsys.readouterr()
    assert said in output.err
    assert str(file) in output.err
    assert "Traceback" not in output.err
    assert output.out == ""


def test_standard_input_is_a_file_too():
    command = [sys.executable, "-c", "from tandem.cli import main; main()", "validate", "-f", "-", "-o", "json"]
    done = subprocess.run(command, input=EXAMPLE.read_text(), capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["valid"] is True


def test_a_reader_that_goes_away_is_no_crash():
    command = f"{sys.executable} -c 'from tandem.cli import main; main()' crds | head -c 10"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert done.stderr == ""


def test_crds_prints_all_four(capsys):
    assert run(["crds"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("kind: CustomResourceDefinition\n") == 4
