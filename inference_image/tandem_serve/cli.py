"""The command line: flags to settings, and every failure to start as one clear message and exit code."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import resource
import socket
import sys
import threading
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from tandem_serve import logs
from tandem_serve.config import ServeConfig, load_config
from tandem_serve.engine.progress import LoadProgress
from tandem_serve.problems import EXIT_USAGE, StartError, usage_error
from tandem_serve.settings import DEFAULT_BATCHED_TOKENS, DEFAULT_MAX_NUM_SEQS, STUCK_SECONDS, Settings

TERMINATION_LOG = Path("/dev/termination-log")
_HARD_TO_END = frozenset({"loader", "engine"})
_KEEPALIVE = {socket.TCP_KEEPIDLE: 30, socket.TCP_KEEPINTVL: 10, socket.TCP_KEEPCNT: 3, socket.TCP_USER_TIMEOUT: 60_000}
"""A client that has vanished without a word is noticed after a minute: seconds, seconds, count, milliseconds."""
_LISTEN_FIXES = {
    errno.EADDRINUSE: "choose a free port, or stop the process that has it",
    errno.EACCES: "choose a port above 1023",
}
_MOST_FILES = 65_536
_COUNT = click.IntRange(min=1)


@click.command(name="tandem-serve", context_settings={"max_content_width": 110})
@click.option("--model", help="Directory of the model, or a repository of the Hugging Face hub.")
@click.option("--revision", help="Branch, tag or commit of the hub repository. Default: main.")
@click.option("--served-model-name", help="Name under which clients ask for it. Default: what --model says.")
@click.option("--role", type=click.Choice(["agg", "prefill", "decode"]), default="agg", show_default=True)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), help="Port; 0 takes a free one. Default: PORT or 8000.")
@click.option("--config", "config_path", type=click.Path(path_type=Path), help="config.yml with the limits.")
@click.option("--dtype", type=click.Choice(["auto", "float32", "bfloat16", "float16"]), default="auto",
              help="Number type. auto: float32 on a CPU, bfloat16 on a GPU that computes with it.")  # fmt: skip
@click.option("--quantization", type=click.Choice(["int8"]),
              help="Make the weights of linear layers 8-bit integers at the start (CPU, bfloat16).")  # fmt: skip
@click.option("--max-model-len", type=_COUNT, help="Longest sequence, prompt and new tokens together.")
@click.option("--max-num-seqs", type=_COUNT, help="Sequences that run at once, within OCCUPANCY_SEMAPHORE.")
@click.option("--max-num-batched-tokens", type=_COUNT, default=DEFAULT_BATCHED_TOKENS, show_default=True,
              help="Tokens of one forward pass.")  # fmt: skip
@click.option("--kv-cache-tokens", type=_COUNT, help="Tokens of KV memory. Default: from the free memory.")
@click.option("--advertise-host", help="Address under which decode workers reach this prefill worker.")
@click.option("--api-key-file", type=click.Path(path_type=Path),
              help="File with API keys, one per line; read again when it changes. Default: no keys.")  # fmt: skip
@click.option("--stuck-seconds", type=click.FloatRange(min=1), default=STUCK_SECONDS, show_default=True,
              help="A step of the model that takes longer means a stuck device: the server ends.")  # fmt: skip
@click.option("--trust-remote-code", is_flag=True, help="Run Python code that comes with the model.")
@click.option("--tool-call-format", type=click.Choice(["hermes", "llama3_json", "mistral"]),
              help="How the model writes calls of tools. Default: as its chat template tells.")  # fmt: skip
@click.option("--log-format", type=click.Choice(["json", "text"]), help="Default: text on a terminal, else json.")
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info")
@click.option("--disable-prefix-cache", is_flag=True, help="Compute every prompt anew, also known beginnings.")
@click.option("--disable-cuda-graphs", is_flag=True,
              help="Start each operation of a step anew; on a CPU, too: no trace of decode steps.")  # fmt: skip
@click.option("--skip-tokenizer-init", is_flag=True, hidden=True)
@click.pass_context
def command(context: click.Context, /, **flags: Any) -> None:
    """Serves a causal language model over HTTP: OpenAI's API, /generate, /health, /metrics."""
    logs.setup(log_format=flags["log_format"], level=flags["log_level"])
    settings = settings_from(flags, context.obj)
    _allow_many_connections()
    sleep_between_tasks(os.environ)
    sock = bind(settings)
    settings = replace(settings, port=sock.getsockname()[1])
    _serve(settings, sock)


def settings_from(flags: Mapping[str, Any], env: Mapping[str, str]) -> Settings:
    """Flags over config file over defaults. Raises `StartError`."""
    if flags["skip_tokenizer_init"]:
        raise usage_error(
            "--skip-tokenizer-init", reason="stop strings and streams need the tokenizer", fix="leave the flag out"
        )
    config = load_config(flags["config_path"], env)
    model = flags["model"] or config.model_name
    if model is None:
        raise usage_error(
            "--model", reason="no model is named", fix="give --model or HUGGINGFACE_MODEL.NAME in the config file"
        )
    host = flags["host"]
    return Settings(
        model=model,
        revision=flags["revision"],
        served_name=flags["served_model_name"] or model,
        role=flags["role"],
        host=host,
        port=config.port if flags["port"] is None else flags["port"],
        config=config,
        max_num_seqs=_max_running(flags, config),
        max_num_batched_tokens=flags["max_num_batched_tokens"],
        dtype=flags["dtype"],
        quantization=flags["quantization"],
        max_model_len=flags["max_model_len"],
        kv_cache_tokens=flags["kv_cache_tokens"],
        prefix_reuse=not flags["disable_prefix_cache"],
        record_steps=not flags["disable_cuda_graphs"],
        advertise_host=flags["advertise_host"] or ("127.0.0.1" if host in ("0.0.0.0", "::", "") else host),
        trust_remote_code=flags["trust_remote_code"],
        api_key_file=flags["api_key_file"],
        stuck_seconds=flags["stuck_seconds"],
        tool_call_format=flags["tool_call_format"],
    )


def _max_running(flags: Mapping[str, Any], config: ServeConfig) -> int:
    """The flag is a size of batches and the semaphore a limit of the process: where both are given, both hold."""
    flag: int | None = flags["max_num_seqs"]
    if flags["config_path"] is None:
        return flag or DEFAULT_MAX_NUM_SEQS
    semaphore = config.occupancy_semaphore
    if flag is None:
        return semaphore
    return min(flag, semaphore) if config.semaphore_is_set else flag


def bind(settings: Settings) -> socket.socket:
    """A listening socket, before anything slow happens. Raises `StartError`."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # The protocol is named so that asyncio sees TCP and sends what is written at once, without waiting for ACKs.
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEPALIVE.items():  # connections inherit them
        sock.setsockopt(socket.IPPROTO_TCP, option, value)
    try:
        sock.bind((settings.host, settings.port))
        sock.listen(2048)
    except OSError as error:
        sock.close()
        raise usage_error(
            "--host and --port",
            value=f"{settings.host}:{settings.port}",
            reason=f"cannot listen there: {error.strerror or error}",
            fix=_LISTEN_FIXES.get(error.errno or 0, "give an address of this machine"),
        ) from error
    return sock


def _allow_many_connections() -> None:
    """Each takes a file descriptor, and the soft limit is often 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def sleep_between_tasks(env: MutableMapping[str, str]) -> None:
    """Has torch's threads sleep while they have nothing to do, unless the environment says how they wait.

    By default they spin, and take the CPU from whoever they wait for: measured on two busy CPUs, five times the CPU
    seconds and a seventh of the tokens. It is read when torch is loaded, so this must come before.
    """
    if not env.keys() & {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}:
        env["OMP_WAIT_POLICY"] = "PASSIVE"


def _serve(settings: Settings, sock: socket.socket) -> None:
    from tandem_serve.server import Process

    progress = LoadProgress(logging.getLogger("tandem_serve.load"))

    async def serve() -> None:
        await Process(settings, sock, progress).run()

    asyncio.run(serve())


def run(arguments: Sequence[str]) -> int:
    """Runs the command and returns the exit code: 0, 1 (the model) or 2 (flags, file, port)."""
    try:
        command.main(args=list(arguments), prog_name="tandem-serve", standalone_mode=False, obj=dict(os.environ))
    except StartError as error:
        return _fail("\n".join(f"error: {problem}" for problem in error.problems), error.exit_code)
    except click.ClickException as error:
        return _fail(f"error: {error.format_message()}\nSee tandem-serve --help.", EXIT_USAGE)
    except click.Abort:
        return 130
    return _end(0)


def _fail(message: str, code: int) -> int:
    logs.last_words(message)
    try:
        if TERMINATION_LOG.exists():
            TERMINATION_LOG.write_text(message[:4000] + "\n", encoding="utf-8")
    except OSError:
        logging.getLogger(__name__).debug("the termination log cannot be written")
    return _end(code)


def _end(code: int) -> int:
    """Ends at once when the model is still being loaded, or is stuck: these threads cannot be interrupted."""
    if any(thread.name in _HARD_TO_END for thread in threading.enumerate()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code
