"""The hand-off between two real servers, one random model of 58 M parameters, one thread each, in one run.

How fast KV goes over loopback, proof included. The time to the first token when KV is handed over while the prompt is
computed, against after it, by the tokens of a step of prefill. And the time between the tokens of running streams while
prompts of 2,000 tokens arrive: apart on a prefill and a decode worker, against one worker (with one thread, and with
two, which is what the pair has). What is compared takes turns, so that a busy machine slows all; CPU time is the same
on a busy machine. `TANDEM_BENCH_ROUNDS` (default 3).
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import psutil

from tests.bench.router import free_port
from tests.bench.serve import Load, save_model, text

ROUNDS = int(os.environ.get("TANDEM_BENCH_ROUNDS", "3"))
PULLS = 12
LONG_PROMPT = 2000
STEPS = (512, 256)
"""Tokens of a step of prefill."""
PROMPTS = (2000, 200, 32)
STREAMS = 4
STREAM_TOKENS = 250
LONG_PROMPTS = 3
START_SECONDS = 120.0


@dataclass(frozen=True, kw_only=True)
class Worker:
    """A running server process."""

    url: str
    session: aiohttp.ClientSession
    process: psutil.Process

    async def post(self, body: dict[str, Any]) -> Any:
        """The answer to a completion."""
        async with self.session.post(f"{self.url}/v1/completions", json={"temperature": 0, **body}) as answer:
            answer.raise_for_status()
            return await answer.json()

    async def offer(self, prompt: str) -> dict[str, Any]:
        """What a prefill worker offers for a prompt."""
        params = {"do_remote_decode": True, "do_remote_prefill": False}
        offered: dict[str, Any] = (await self.post({"prompt": prompt, "max_tokens": 1, "kv_transfer_params": params}))[
            "kv_transfer_params"
        ]
        return offered

    async def early_offer(self, prompt: str) -> tuple[dict[str, Any], asyncio.Task[bytes]]:
        """The offer while the prompt is computed, as the router asks for it, and the rest of the answer."""
        params = {"do_remote_decode": True, "do_remote_prefill": False, "offer_early": True}
        body = {"prompt": prompt, "max_tokens": 1, "temperature": 0, "kv_transfer_params": params}
        answer = await self.session.post(f"{self.url}/v1/completions", json=body)
        answer.raise_for_status()
        first = json.loads((await answer.content.readuntil(b"\n\n")).removeprefix(b"data: "))
        return first["kv_transfer_params"], asyncio.create_task(answer.read())

    async def stream(self, body: dict[str, Any], times: list[float]) -> None:
        """Notes when each piece of a stream came."""
        body = {"temperature": 0, "stream": True, **body}
        async with self.session.post(f"{self.url}/v1/completions", json=body) as answer:
            answer.raise_for_status()
            async for line in answer.content:
                if line.startswith(b"data: {"):
                    times.append(time.monotonic())

    def cpu_seconds(self) -> float:
        """CPU time that the process has used."""
        used = self.process.cpu_times()
        return float(used.user + used.system)


@contextlib.asynccontextmanager
async def worker(model: Path, role: str, *, threads: int, step: int = STEPS[0]) -> AsyncIterator[Worker]:
    """A server process that answers; ended at the end."""
    port = free_port()
    command = [
        *(sys.executable, "-m", "tandem_serve", "--model", str(model), "--role", role, "--port", str(port)),
        *("--dtype", "float32", "--kv-cache-tokens", "32768", "--max-num-batched-tokens", str(step)),
    ]
    log = (model.parent / f"{role}-{threads}-{step}.log").open("wb")
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(threads)}
    process = await asyncio.create_subprocess_exec(*command, stdout=log, stderr=log, env=environment)
    timeout = aiohttp.ClientTimeout(total=None)
    try:
        async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as session:
            one = Worker(url=f"http://127.0.0.1:{port}", session=session, process=psutil.Process(process.pid))
            await until_ready(one)
            yield one
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        log.close()


async def until_ready(one: Worker) -> None:
    """Returns when the model is loaded."""
    async with asyncio.timeout(START_SECONDS):
        while True:
            with contextlib.suppress(aiohttp.ClientError):
                async with one.session.get(f"{one.url}/health") as answer:
                    if answer.status == 200:
                        return
            await asyncio.sleep(0.1)


async def pulls(prefill: Worker) -> dict[str, float]:
    """How fast this process gets the KV of a long prompt out of a prefill worker, checked as a decode worker does."""
    import torch

    from tandem_serve.engine.kv_cache import KvLayout
    from tandem_serve.engine.transfer.fetch import Source
    from tandem_serve.engine.transfer.identity import KvIdentity
    from tandem_serve.engine.types import RemoteKv

    tokens = tuple(random.Random(0).randrange(32_000) for _ in range(LONG_PROMPT))
    params = await prefill.offer(list(tokens))  # type: ignore[arg-type]
    who = KvIdentity(**params["remote_identity"])
    layout = KvLayout(
        layers=who.layers,
        kv_heads=who.kv_heads,
        head_dim=who.head_dim,
        dtype=torch.float32,
        device=torch.device("cpu"),
    )
    remote = RemoteKv(
        host="127.0.0.1",
        port=params["remote_port"],
        kv_id=params["remote_request_id"],
        token=params["remote_token"],
        lease_seconds=params["remote_lease_seconds"],
    )
    source = Source(prefill.session, who=who, layout=layout, timeout=60.0, stall_seconds=60.0)
    seconds, moved = [], 0
    ours, theirs = time.process_time(), prefill.cpu_seconds()
    for _ in range(PULLS):
        began = time.monotonic()
        moved += sum([part.data.nbytes async for part in source.parts(remote, tokens, 0)])
        seconds.append(time.monotonic() - began)
    ours, theirs = time.process_time() - ours, prefill.cpu_seconds() - theirs
    await source.free(remote)
    each = moved / PULLS
    return {
        "megabytes": round(each / 1e6, 1),
        "gb_per_s_best": round(each / min(seconds) / 1e9, 2),
        "gb_per_s_median": round(each / statistics.median(seconds) / 1e9, 2),
        "cpu_s_per_gb_receiver": round(ours / moved * 1e9, 2),
        "cpu_s_per_gb_sender": round(theirs / moved * 1e9, 2),
    }


@dataclass(frozen=True, kw_only=True)
class Side:
    """One worker for all, or one that decodes what another one has prefilled."""

    decode: Worker
    prefill: Worker | None = None

    async def stream(self, load: Load, times: list[float], *, early: bool = True) -> None:
        """One stream from its prompt on; `early`: KV goes over while the prompt is computed."""
        body: dict[str, Any] = {"prompt": load.prompt, "max_tokens": load.new_tokens}
        if self.prefill is None:
            await self.decode.stream(body, times)
        elif early:
            params, rest = await self.prefill.early_offer(load.prompt)
            await self.decode.stream({**body, "kv_transfer_params": params}, times)
            await rest
        else:
            params = await self.prefill.offer(load.prompt)
            await self.decode.stream({**body, "kv_transfer_params": params}, times)

    def cpu_seconds(self) -> float:
        """CPU time that its processes have used."""
        return self.decode.cpu_seconds() + (self.prefill.cpu_seconds() if self.prefill else 0.0)


async def first_tokens(side: Side, *, seed: int) -> dict[str, float]:
    """Milliseconds to the first token, and of CPU, when KV is handed over early and late, by tokens of the prompt.

    The decode worker remembers prompts, so each call needs a seed of its own.
    """
    source = random.Random(seed)
    result: dict[str, float] = {}
    for tokens in PROMPTS:
        seconds: dict[bool, list[float]] = {True: [], False: []}
        cpu = {True: 0.0, False: 0.0}
        for number in range(2 * ROUNDS + 1):
            for early in (True, False) if number % 2 else (False, True):
                times: list[float] = []
                used, began = side.cpu_seconds(), time.monotonic()
                await side.stream(Load(prompt=text(source, tokens), new_tokens=2), times, early=early)
                if number:  # the first one sets things up
                    seconds[early].append(times[0] - began)
                    cpu[early] += side.cpu_seconds() - used
        pairs = zip(seconds[True], seconds[False], strict=True)
        result |= {
            f"{tokens}_tokens_early_ms": round(statistics.median(seconds[True]) * 1000),
            f"{tokens}_tokens_late_ms": round(statistics.median(seconds[False]) * 1000),
            f"{tokens}_tokens_ratio": round(statistics.median(early / late for early, late in pairs), 2),
            f"{tokens}_tokens_cpu_ratio": round(cpu[True] / cpu[False], 2),
        }
    return result


async def interference(side: Side, *, seed: int) -> dict[str, list[float]]:
    """Seconds between the tokens of some streams, while long prompts arrive one after the other, and after that."""
    source = random.Random(seed)
    streams: list[list[float]] = [[] for _ in range(STREAMS)]
    load = [Load(prompt=text(source, 32), new_tokens=STREAM_TOKENS) for _ in streams]
    tasks = [asyncio.create_task(side.stream(one, times)) for one, times in zip(load, streams, strict=True)]
    while min(len(times) for times in streams) < 5:  # noqa: ASYNC110  (nothing tells of it)
        await asyncio.sleep(0.02)
    began, first_tokens = time.monotonic(), []
    cpu_seconds = side.decode.cpu_seconds()
    for _ in range(LONG_PROMPTS):
        asked, times = time.monotonic(), []
        await side.stream(Load(prompt=text(source, LONG_PROMPT), new_tokens=2), times)
        first_tokens.append(times[0] - asked)
    ended = time.monotonic()
    cpu_seconds = side.decode.cpu_seconds() - cpu_seconds
    await asyncio.gather(*tasks)
    pairs = [pair for times in streams for pair in itertools.pairwise(times)]
    beside = [late - early for early, late in pairs if began < late <= ended]
    return {
        "beside": beside,
        "cpu_per_step": [cpu_seconds / max(1.0, len(beside) / STREAMS)],
        "quiet": [late - early for early, late in pairs if early > ended],
        "first_token": first_tokens,
    }


def summary(runs: list[dict[str, list[float]]]) -> dict[str, float]:
    """Milliseconds of all rounds."""
    joined = {name: [value for run in runs for value in run[name]] for name in runs[0]}
    result: dict[str, float] = {
        "long_prompt_first_token_ms": round(statistics.median(joined["first_token"]) * 1000),
        "decode_cpu_ms_per_token": round(statistics.median(joined["cpu_per_step"]) * 1000, 1),
    }
    for name in ("beside", "quiet"):
        if len(joined[name]) > 1:
            cuts = statistics.quantiles(joined[name], n=100, method="inclusive")
            result |= {f"tpot_{name}_p{share}_ms": round(cuts[share - 1] * 1000, 1) for share in (50, 99)}
            result[f"tokens_{name}"] = len(joined[name])
    return result


async def measure(model: Path) -> dict[str, Any]:
    """All figures."""
    async with contextlib.AsyncExitStack() as stack:
        prefill, decode, one, two = [
            await stack.enter_async_context(worker(model, role, threads=threads))
            for role, threads in (("prefill", 1), ("decode", 1), ("agg", 1), ("agg", 2))
        ]
        result: dict[str, Any] = {"loopback": await pulls(prefill)}
        for step in STEPS:
            async with worker(model, "prefill", threads=1, step=step) as other:
                result[f"first_token_steps_of_{step}"] = await first_tokens(
                    Side(decode=decode, prefill=other), seed=step
                )
        sides = {
            "disaggregated": Side(decode=decode, prefill=prefill),
            "aggregated_1_thread": Side(decode=one),
            "aggregated_2_threads": Side(decode=two),
        }
        runs: dict[str, list[dict[str, list[float]]]] = {name: [] for name in sides}
        for number in range(ROUNDS):
            for name, side in sides.items():
                runs[name].append(await interference(side, seed=number))
        result |= {name: summary(of_one) for name, of_one in runs.items()}
    for name in ("aggregated_1_thread", "aggregated_2_threads"):
        for figure in ("tpot_beside_p99_ms", "decode_cpu_ms_per_token"):
            ratio = result["disaggregated"][figure] / result[name][figure]
            result[f"{figure.removesuffix('_ms')}_ratio_to_{name}"] = round(ratio, 2)
    return result


def main() -> None:
    """Prints the figures as one line of JSON."""
    with tempfile.TemporaryDirectory() as directory:
        model = Path(directory) / "model"
        save_model(model)
        result = asyncio.run(measure(model))
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
