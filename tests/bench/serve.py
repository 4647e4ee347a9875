"""The bundled server against `transformers serve` and others, one random model of 58 M parameters, in turns in one run.

`transformers serve` runs in an environment of its own with the package accelerate; what cannot be started is left out,
with the reason. Environment variables:
- `TANDEM_BENCH_DTYPES` (default `float32,bfloat16`) and `TANDEM_BENCH_SERVERS` (default: all) choose what runs;
- `TANDEM_BENCH_OTHER` names one more server: `NAME=COMMAND` with `{model}`, `{dtype}` and `{port}` in the command, or
  `NAME=URL` of one that runs and serves the model of `TANDEM_BENCH_MODEL`;
- `TANDEM_BENCH_MODEL`: where the model is kept, and made when it is missing; default: a temporary directory;
- `TANDEM_BENCH_DEVICE`: `cpu` (default) hides GPUs from all servers; `cuda` measures on one, with a model of 1.1
  billion parameters in bfloat16 and four times as many requests, also without CUDA graphs.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import random
import shlex
import signal
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from tests.cluster.errors import RigError, Unavailable
from tests.environments import python_with

WORDS = 32_000
CLIENTS = {8: 24, 32: 48}
"""Clients at once, and requests in all."""
SERVERS = ("tandem", "tandem-int8", "transformers-continuous", "transformers-sequential")
ACCELERATE = "accelerate==1.13.0"
DTYPES = ("float32", "bfloat16")
GPU_SERVERS = ("tandem", "tandem-no-graphs", "transformers-continuous", "transformers-sequential")
OURS = {"tandem": [], "tandem-int8": ["--quantization", "int8"], "tandem-no-graphs": ["--disable-cuda-graphs"]}
"""Our server's names here, and what it is told besides."""
THEIRS = ("transformers-continuous", "transformers-sequential")
ROUNDS = 2
START_SECONDS = 120.0
SETTLE_SECONDS = 3.0
"""Before each turn: some servers go on for a second after their last answer."""
SHAPE = {
    "vocab_size": WORDS,
    "hidden_size": 512,
    "intermediate_size": 1536,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 4096,
    "bos_token_id": None,
    "eos_token_id": None,
    "tie_word_embeddings": False,
}
GPU_SHAPE = {
    **SHAPE,
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 22,
    "num_attention_heads": 32,
}
GPU_REQUESTS = 4
"""Times as many requests."""


class DidNotStartError(Exception):
    """A server that ended or was not ready in time; the last line of its log says more."""


@dataclass(frozen=True, kw_only=True)
class Load:
    """One request: a text of so many tokens, and how many new ones it asks for."""

    prompt: str
    new_tokens: int


@dataclass(frozen=True, kw_only=True)
class Server:
    """A running server."""

    name: str
    url: str
    model: str
    session: aiohttp.ClientSession

    async def complete(self, load: Load) -> int:
        """New tokens of one answer."""
        body = {"model": self.model, "prompt": load.prompt, "max_tokens": load.new_tokens, "temperature": 0}
        async with self.session.post(f"{self.url}/v1/completions", json=body) as answer:
            answer.raise_for_status()
            return int((await answer.json())["usage"]["completion_tokens"])

    async def stream(self, load: Load, times: list[float]) -> None:
        """Notes when each piece of a stream came."""
        body = {"model": self.model, "prompt": load.prompt, "max_tokens": load.new_tokens, "temperature": 0}
        async with self.session.post(f"{self.url}/v1/completions", json=body | {"stream": True}) as answer:
            answer.raise_for_status()
            async for line in answer.content:
                if line.startswith(b"data: {"):
                    times.append(time.monotonic())


def on_gpu() -> bool:
    """Whether a GPU is measured. Raises `ValueError` for a device that is neither."""
    device = os.environ.get("TANDEM_BENCH_DEVICE", "cpu")
    if device not in ("cpu", "cuda"):
        raise ValueError(f"TANDEM_BENCH_DEVICE = {device!r}: only cpu or cuda can stand here")
    return device == "cuda"


def save_model(directory: Path) -> None:
    """A random Llama whose tokens are words, so that every token is text, and that never ends by itself."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    if on_gpu():
        config = LlamaConfig(**GPU_SHAPE, initializer_range=0.02, dtype=torch.bfloat16)
        LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(directory)
    else:
        LlamaForCausalLM(LlamaConfig(**SHAPE, initializer_range=0.2)).save_pretrained(directory)
    tokenizer = Tokenizer(models.WordLevel({f"w{number}": number for number in range(WORDS)}, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(directory)


def text(source: random.Random, tokens: int) -> str:
    """A random prompt."""
    return " ".join(f"w{source.randrange(WORDS)}" for _ in range(tokens))


def loads(seed: int, count: int) -> list[Load]:
    """Ragged requests: prompts of 16 to 128 tokens, answers of 8 to 64."""
    source = random.Random(seed)
    return [Load(prompt=text(source, source.randint(16, 128)), new_tokens=source.randint(8, 64)) for _ in range(count)]


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def command(name: str, model: Path, dtype: str, port: int) -> list[str]:
    """How a server is started."""
    place = ["--dtype", dtype, "--port", str(port)]
    if name in OURS:
        limits = ["--max-num-seqs", "32", "--served-model-name", str(model)]
        start = [sys.executable, "-m", "tandem_serve", "--model", str(model)]
        return [*start, *place, *limits, *OURS[name]]
    if name in THEIRS:
        try:
            python = python_with([ACCELERATE], _tell, beside_project=True)
        except (RigError, Unavailable) as error:
            raise DidNotStartError(str(error)) from error
        start = [str(python), "-c", "from transformers.cli.transformers import main; main()", "serve", str(model)]
        return [*start, *place, *(["--continuous-batching"] if name == "transformers-continuous" else [])]
    _, how = other()
    return [part.format(model=model, dtype=dtype, port=port) for part in shlex.split(how)]


def other() -> tuple[str, str]:
    """Name of one more server, and its command or URL; empty when there is none."""
    name, _, how = os.environ.get("TANDEM_BENCH_OTHER", "").partition("=")
    return name, how


@contextlib.asynccontextmanager
async def running(name: str, model: Path, dtype: str) -> AsyncIterator[Server]:
    """A server that answers; its process is ended at the end, where we started it."""
    if name == other()[0] and other()[1].startswith("http"):
        async with _session() as session:
            yield Server(name=name, url=other()[1].rstrip("/"), model=str(model), session=session)
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = tempfile.TemporaryFile()  # noqa: SIM115  (closed at the end)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"} | ({} if on_gpu() else {"CUDA_VISIBLE_DEVICES": ""})
    process = await asyncio.create_subprocess_exec(
        *command(name, model, dtype, port), stdout=log, stderr=log, env=environment, start_new_session=True
    )
    try:
        async with _session() as session:
            server = Server(name=name, url=f"http://127.0.0.1:{port}", model=str(model), session=session)
            try:
                await _until_it_answers(server, process)
            except DidNotStartError as error:
                log.seek(0)
                lines = log.read().decode(errors="replace").strip().splitlines()
                raise DidNotStartError(lines[-1] if lines else "it printed nothing") from error
            yield server
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # with the processes that it started itself
        await process.wait()
        log.close()


def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None), connector=aiohttp.TCPConnector(limit=0))


async def _until_it_answers(server: Server, process: asyncio.subprocess.Process) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.returncode is None:
        with contextlib.suppress(aiohttp.ClientError):
            await server.complete(Load(prompt="w1 w2 w3", new_tokens=2))
            return
        await asyncio.sleep(0.2)
    raise DidNotStartError(server.name)


async def throughput(server: Server, *, clients: int, seed: int) -> float:
    """New tokens per second of all clients together; each sends its next request when it has its answer."""
    todo = iter(loads(seed, CLIENTS[clients] * (GPU_REQUESTS if on_gpu() else 1)))
    tokens = 0

    async def client() -> None:
        nonlocal tokens
        for load in todo:
            new = await server.complete(load)  # before the sum is read: others add to it meanwhile
            if new != load.new_tokens:
                raise RuntimeError(f"{server.name} gave {new} of {load.new_tokens} tokens: it did other work")
            tokens += new

    began = time.monotonic()
    await asyncio.gather(*(client() for _ in range(clients)))
    return tokens / (time.monotonic() - began)


async def interference(server: Server) -> dict[str, float]:
    """Milliseconds between the tokens of four streams while three prompts of 2,000 tokens arrive."""
    source = random.Random(1)
    streams: list[list[float]] = [[] for _ in range(4)]
    tasks = [
        asyncio.create_task(server.stream(Load(prompt=text(source, 32), new_tokens=200), times)) for times in streams
    ]
    while min(len(times) for times in streams) < 5:  # noqa: ASYNC110  (nothing tells of it)
        await asyncio.sleep(0.02)
    began = time.monotonic()
    for _ in range(3):
        await server.complete(Load(prompt=text(source, 2000), new_tokens=1))
    ended = time.monotonic()
    await asyncio.gather(*tasks)
    pairs = [pair for times in streams for pair in itertools.pairwise(times)]
    gaps = {
        "quiet": [late - early for early, late in pairs if early > ended],
        "beside": [late - early for early, late in pairs if began < late <= ended],
    }
    result = {"long_prompt_ms": round((ended - began) / 3 * 1000)}
    for name, values in gaps.items():
        if len(values) > 1:
            cuts = statistics.quantiles(values, n=100)
            result |= {f"tpot_{name}_p50_ms": round(cuts[49] * 1000), f"tpot_{name}_p99_ms": round(cuts[98] * 1000)}
    return result


async def prefix(server: Server) -> dict[str, float]:
    """Milliseconds to the first token of a prompt whose first 1,500 tokens are new, and of one where they are not."""
    source = random.Random(2)
    first, again = [], []
    for _ in range(2):
        shared = text(source, 1500)
        for kept in (first, again):
            began = time.monotonic()
            await server.complete(Load(prompt=f"{shared} {text(source, 8)}", new_tokens=1))
            kept.append(time.monotonic() - began)
    return {"first_ms": round(min(first) * 1000), "again_ms": round(min(again) * 1000)}


async def measure(model: Path, dtype: str, names: list[str]) -> dict[str, Any]:
    """All figures of one number format. The servers stand side by side; one works at a time."""
    result: dict[str, Any] = {name: {} for name in names}
    async with contextlib.AsyncExitStack() as stack:
        servers = []
        for name in names:
            try:
                servers.append(await stack.enter_async_context(running(name, model, dtype)))
            except DidNotStartError as error:
                result[name] = {"skipped": str(error)}
        for number in range(ROUNDS):
            for clients in CLIENTS:
                for server in servers:
                    if server.name == "transformers-sequential" and (number or clients > 8):
                        continue  # one at a time is one at a time, whoever waits
                    await asyncio.sleep(SETTLE_SECONDS)
                    rate = await throughput(server, clients=clients, seed=number)
                    _tell(f"{dtype} {clients} clients, {server.name}: {rate:.1f} tokens/s")
                    result[server.name].setdefault(f"tokens_per_s_{clients}", []).append(round(rate, 1))
        for server in servers:
            if server.name in ("tandem", "tandem-no-graphs"):
                result[server.name] |= {"prefix": await prefix(server), "long_prompts": await interference(server)}
    return result


def chosen(variable: str, known: tuple[str, ...]) -> list[str]:
    """What an environment variable names, in our order; all when it is not set."""
    wanted = os.environ.get(variable)
    return [name for name in known if wanted is None or name in wanted.split(",")]


def main() -> None:
    """Prints the figures as one line of JSON."""
    known = GPU_SERVERS if on_gpu() else SERVERS
    names = chosen("TANDEM_BENCH_SERVERS", tuple(filter(None, (*known, other()[0]))))
    dtypes = chosen("TANDEM_BENCH_DTYPES", ("bfloat16",) if on_gpu() else DTYPES)
    with tempfile.TemporaryDirectory() as directory:
        model = Path(os.environ.get("TANDEM_BENCH_MODEL") or Path(directory) / "model")
        if not (model / "config.json").exists():
            save_model(model)
        result = {dtype: asyncio.run(measure(model, dtype, names)) for dtype in dtypes}
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
