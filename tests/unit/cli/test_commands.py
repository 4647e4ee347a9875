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
    if arguments not in (["local"], ["generator"]):  # groups; their commands have one
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
        (["render", "-f", "x", "--worker-image", "torhc=i:1"], "'torhc' is no backend; there are torch, vllm"),
        (["explain", "--backend", "vlm"], "'vlm' is not one of"),
        (["operator", "--worker-image", "torhc=i:1"], "'torhc' is no backend"),
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
    assert all(line.startswith(f"error: {file}:4:") for line in lines)


@pytest.mark.parametrize("command", ["render", "explain", "validate", "local up"])
@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "the file does not exist"),
        ("a: [1", "malformed YAML"),
        ("kind: Pod", "not one of Tandem's"),
        ("", "holds no resource"),
        ("- 1", "a resource is a map"),
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


def test_standard_input_is_called_by_its_name():
    command = [sys.executable, "-c", "from tandem.cli import main; main()", "render", "-f", "-"]
    done = subprocess.run(command, input="kind: Pod", capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: standard input:1:7: kind: ")


@pytest.mark.parametrize("command", ["explain", "diff"])
def test_with_json_problems_are_json_on_stderr(command, tmp_path, capsys):
    file = tmp_path / "d.yaml"
    file.write_text(
        "apiVersion: tandem.dev/v1alpha1\nkind: ModelDeployment\nmetadata: {name: x}\nspec: {backendd: 1}\n"
    )
    assert run([command, "-f", str(file), "-o", "json"]) == 1
    output = capsys.readouterr()
    assert output.out == ""
    missing, unknown = json.loads(output.err)["problems"]
    assert [missing[key] for key in ("path", "line", "column", "value")] == ["spec.model", 4, 1, None]
    assert unknown == {
        "path": "spec.backendd",
        "file": str(file),
        "line": 4,
        "column": 8,
        "value": 1,
        "reason": "unknown field",
        "fix": "Did you mean backend?",
    }


@pytest.mark.parametrize("option", [["-o", "json"], ["-ojson"], ["--output=json"], ["--output", "json"]])
def test_with_json_wrong_usage_is_json_too(option, capsys):
    assert run(["explain", *option]) == 2
    (problem,) = json.loads(capsys.readouterr().err)["problems"]
    assert "Missing option '-f'" in problem["reason"]


def test_many_problems_are_cut_short(tmp_path, capsys):
    file = tmp_path / "d.yaml"
    file.write_text("".join(f"k{index}: .inf\n" for index in range(500)))
    assert run(["validate", "-f", str(file)]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 101
    assert lines[-1] == "error: and 400 more"


def test_a_full_disk_is_told():
    if not Path("/dev/full").exists():
        pytest.skip("this machine has no /dev/full")
    command = f"{sys.executable} -c 'from tandem.cli import main; main()' crds > /dev/full"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: standard output: it cannot be written: No space left on device.")


def test_a_reader_that_goes_away_is_no_crash():
    command = f"{sys.executable} -c 'from tandem.cli import main; main()' crds | head -c 10"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert done.stderr == ""


def test_crds_prints_all_four(capsys):
    assert run(["crds"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("kind: CustomResourceDefinition\n") == 4
