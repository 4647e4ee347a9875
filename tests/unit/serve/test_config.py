"""`config.yml`, the environment and the flags, as typed settings."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from tandem_serve import cli
from tandem_serve.config import load_config
from tandem_serve.problems import StartError
from tandem_serve.settings import Settings

FILE = """
HUGGINGFACE_MODEL:
  NAME: /models/qwen
  BASE: Qwen/Qwen2.5-1.5B-Instruct
GENERATION:
  MAX_NEW_TOKENS: 256
  DEFAULT_MAX_NEW_TOKENS: 32
  TIMEOUT_SECONDS: 7.5
  OCCUPANCY_SEMAPHORE: 3
  MAX_PROMPT_TOKENS: 100
  ON_OVERLONG: truncate
  MAX_QUEUE: 9
"""


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    path = tmp_path / "config.yml"
    path.write_text(FILE)
    return path


def settings(*arguments: str, env: dict[str, str] | None = None) -> Settings:
    """What the command line makes of its arguments, without starting anything."""
    context = cli.command.make_context("tandem-serve", list(arguments))
    return cli.settings_from(context.params, env or {})


def test_s1_17_the_keys_of_the_file_work_verbatim(config_file: Path) -> None:
    config = load_config(config_file, {})
    assert (config.model_name, config.base_model) == ("/models/qwen", "Qwen/Qwen2.5-1.5B-Instruct")
    assert (config.max_new_tokens, config.default_max_new_tokens) == (256, 32)
    assert (config.generation_timeout, config.occupancy_semaphore) == (7.5, 3)
    assert (config.max_prompt_tokens, config.on_overlong, config.max_queue) == (100, "truncate", 9)


def test_s1_17_defaults() -> None:
    config = load_config(None, {})
    assert (config.max_new_tokens, config.default_max_new_tokens) == (512, 64)
    assert (config.generation_timeout, config.occupancy_semaphore) == (60, 1)
    assert (config.max_prompt_tokens, config.on_overlong) == (2048, "reject")


def test_s1_19_the_properties_are_typed(config_file: Path) -> None:
    config = load_config(config_file, {"HF_TOKEN": "hf_x", "PORT": "9000"})
    types = {
        "model_name": str,
        "port": int,
        "max_new_tokens": int,
        "default_max_new_tokens": int,
        "generation_timeout": float,
        "occupancy_semaphore": int,
    }
    assert {name: type(getattr(config, name)) for name in types} == types
    assert config.hf_token is not None
    assert config.hf_token.get_secret_value() == "hf_x"


@pytest.mark.parametrize("name", ["HF_TOKEN", "HF_TOKEN_READ"])
def test_s1_18_either_token_works_and_does_not_show(name: str) -> None:
    config = load_config(None, {name: "hf_secret"})
    assert config.hf_token is not None
    assert config.hf_token.get_secret_value() == "hf_secret"
    assert "hf_secret" not in repr(config.hf_token) + str(config.hf_token) + repr(vars(config))


def test_s1_18_the_port_comes_from_flag_environment_or_default() -> None:
    assert settings("--model", "m").port == 8000
    assert settings("--model", "m", env={"PORT": "9000"}).port == 9000
    assert settings("--model", "m", "--port", "9001", env={"PORT": "9000"}).port == 9001
    with pytest.raises(StartError, match=r"PORT \(environment\) = 'x'"):
        settings("--model", "m", env={"PORT": "x"})


def test_threads_without_work_sleep_unless_the_environment_says_how_they_wait() -> None:
    env = {"HOME": "/"}
    cli.sleep_between_tasks(env)
    assert env == {"HOME": "/", "OMP_WAIT_POLICY": "PASSIVE"}
    for name, value in (("OMP_WAIT_POLICY", "ACTIVE"), ("GOMP_SPINCOUNT", "1000")):
        env = {name: value}
        cli.sleep_between_tasks(env)
        assert env == {name: value}


def test_number_types_that_quantised_weights_do_not_have_are_refused_before_anything_is_loaded() -> None:
    with pytest.raises(StartError, match="--dtype = float32: quantised weights are multiplied in bfloat16"):
        settings("--model", "m", "--quantization", "int8", "--dtype", "float32")


def test_flags_win_over_the_file(config_file: Path) -> None:
    chosen = settings("--config", str(config_file))
    assert (chosen.model, chosen.served_name, chosen.max_num_seqs) == ("/models/qwen", "/models/qwen", 3)
    chosen = settings("--config", str(config_file), "--model", "/m", "--served-model-name", "q", "--max-num-seqs", "2")
    assert (chosen.model, chosen.served_name, chosen.max_num_seqs) == ("/m", "q", 2)
    assert settings("--model", "m").max_num_seqs == 16
    assert settings("--model", "m").prefix_reuse
    assert not settings("--model", "m", "--disable-prefix-cache").prefix_reuse
    assert settings("--model", "m", "--max-num-seqs", "5").max_num_seqs == 5


def test_s1_07_a_batch_size_cannot_lift_the_semaphore(config_file: Path, tmp_path: Path) -> None:
    assert settings("--config", str(config_file), "--max-num-seqs", "9").max_num_seqs == 3
    silent = tmp_path / "silent.yml"
    silent.write_text("GENERATION: {MAX_QUEUE: 3}")
    assert settings("--model", "m", "--config", str(silent)).max_num_seqs == 1
    assert settings("--model", "m", "--config", str(silent), "--max-num-seqs", "9").max_num_seqs == 9


@pytest.mark.parametrize(
    ("host", "flag", "advertised"),
    [("0.0.0.0", None, "127.0.0.1"), ("10.0.0.5", None, "10.0.0.5"), ("0.0.0.0", "10.1.2.3", "10.1.2.3")],
)
def test_the_address_for_decode_workers(host: str, flag: str | None, advertised: str) -> None:
    extra = [] if flag is None else ["--advertise-host", flag]
    assert settings("--model", "m", "--host", host, *extra).advertise_host == advertised


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("GENERATION: {MAX_NEW_TOKEN: 5}", "GENERATION.MAX_NEW_TOKEN = 5: unknown key"),
        ("GENERATE: {}", "GENERATE = {}: unknown key"),
        ("GENERATION: {MAX_NEW_TOKENS: '5'}", "GENERATION.MAX_NEW_TOKENS = '5': a whole number is needed here"),
        (
            "GENERATION: {MAX_NEW_TOKENS: 0}",
            "GENERATION.MAX_NEW_TOKENS = 0: it must be at least 1",
        ),
        ("GENERATION: {TIMEOUT_SECONDS: -1}", "GENERATION.TIMEOUT_SECONDS"),
        (
            "GENERATION: {ON_OVERLONG: cut}",
            "GENERATION.ON_OVERLONG = 'cut': only 'reject' or 'truncate' can stand here",
        ),
        ("GENERATION: 5", "GENERATION = 5"),
        ("- a", "the file must be a mapping"),
        ("a: [1\nb: 2", "config.yml:2:"),
    ],
)
def test_a_wrong_file_is_located_and_says_what_to_do(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "config.yml"
    path.write_text(text)
    with pytest.raises(StartError) as caught:
        load_config(path, {})
    assert caught.value.exit_code == 2
    message = str(caught.value)
    assert problem in message
    assert str(path) in message
    assert ". Fix: " in message


def test_all_wrong_keys_are_named_at_once(tmp_path: Path) -> None:
    path = tmp_path / "config.yml"
    path.write_text("GENERATION: {MAX_QUEUE: -1, MAX_NEW_TOKENS: x}\nOTHER: 1")
    with pytest.raises(StartError) as caught:
        load_config(path, {})
    assert len(caught.value.problems) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--modle", "x"], "No such option"),
        (["--role", "router", "--model", "x"], "'router' is not one of"),
        (["--port", "70000", "--model", "x"], "70000"),
        ([], "--model: no model is named"),
        (["--model", "x", "--skip-tokenizer-init"], "--skip-tokenizer-init"),
        (["--model", "x", "--config", "/no/config.yml"], "--config = /no/config.yml: there is no such file"),
    ],
)
def test_wrong_flags_end_with_2_and_one_message(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log = tmp_path / "termination-log"
    log.touch()
    monkeypatch.setattr(cli, "TERMINATION_LOG", log)
    assert cli.run(arguments) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert "Traceback" not in shown
    assert message in log.read_text()


def test_help_names_every_flag() -> None:
    shown = CliRunner().invoke(cli.command, ["--help"]).output
    for flag in ("--model", "--role", "--config", "--kv-cache-tokens", "--advertise-host", "--max-num-batched-tokens"):
        assert flag in shown


def test_a_file_that_is_nested_too_deeply_is_told(tmp_path: Path) -> None:
    path = tmp_path / "config.yml"
    path.write_text("[" * 1_000)
    with pytest.raises(StartError, match=r"config\.yml: malformed YAML: nested too deeply"):
        load_config(path, {})


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("GENERATION: {MAX_NEW_TOKENS: many}", "a whole number is needed here"),
        ("GENERATION: {MAX_NEW_TOKENS: 0}", "it must be at least 1"),
        ("GENERATION: {TIMEOUT_SECONDS: 0}", "it must be above 0"),
        ("GENERATION: {TIMEOUT_SECONDS: [1]}", "a number is needed here"),
        ("GENERATION: {ON_OVERLONG: cut}", "only 'reject' or 'truncate' can stand here"),
        ("GENERATION: 5", "key: value lines are needed here"),
        ("HUGGINGFACE_MODEL: {NAME: ''}", "it must not be empty"),
        ("HUGGINGFACE_MODEL: {NAME: 5}", "a text is needed here"),
    ],
)
def test_a_wrong_value_is_told_in_our_words(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "config.yml"
    path.write_text(text)

    with pytest.raises(StartError) as refused:
        load_config(path, {})

    assert {problem.reason for problem in refused.value.problems} == {reason}
